/* The statements of groups, their deliveries, and retention (sql.h). */
#ifndef FAN_STORE_POSTGRES_SQL_GROUP_H
#define FAN_STORE_POSTGRES_SQL_GROUP_H

#define FAN__POSTGRES_STATEMENTS_GROUP(X)                                                          \
    X(GROUPS, "SELECT g.id, g.name, g.handler, g.pattern, g.topic, g.cursor, g.completed, "        \
              "g.ordered, g.token, g.ahead, g.joined_us FROM @grp g ORDER BY g.name, g.handler")

#endif
