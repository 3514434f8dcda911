/* One datagram to a Unix socket: no more is needed, and no library for it. */
#include "server/notify.h"

#include "base/env.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void fan__notify(const char *lines)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (!path || (*path != '/' && *path != '@') || strlen(path) >= sizeof(address.sun_path))
        return;
    size_t size = strlen(path);
    memcpy(address.sun_path, path, size);
    /* An @ stands for the NUL of the abstract namespace. */
    if (*path == '@')
        address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    (void)sendto(fd, lines, strlen(lines), MSG_NOSIGNAL, (const struct sockaddr *)&address,
                 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size));
    close(fd);
}

void fan__notify_reloading(void)
{
    char lines[64];
    /*
     * systemd wants the time by the clock of the machine, to tell this reload from an earlier one.
     */
    snprintf(lines, sizeof(lines), "RELOADING=1\nMONOTONIC_USEC=%" PRId64,
             fan__monotonic_ns(NULL) / FAN__NS_PER_US);
    fan__notify(lines);
}
