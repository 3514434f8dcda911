/* What every cmocka program of ours includes: cmocka's own prelude in its one legal order. */
#ifndef TEST_H
#define TEST_H

/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#define assert_ok(expression) assert_int_equal((expression), FAN_OK)

#endif
