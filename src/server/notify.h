/*
 * What fanfared tells the service manager that started it (sd_notify(3)), so that a unit may be
 * Type=notify or notify-reload. Without NOTIFY_SOCKET in the environment nothing is told.
 */
#ifndef FAN_SERVER_NOTIFY_H
#define FAN_SERVER_NOTIFY_H

/* "READY=1", "STOPPING=1": lines of NAME=VALUE. What cannot be told is let go. */
void fan__notify(const char *lines);

/* That settings are read again; READY=1 ends it. */
void fan__notify_reloading(void);

#endif
