// The shell of the busybox image. The original's shell hands on variables whose names are no identifiers, which the packaged busybox
// forgets; bash keeps them, but words its errors differently. So: bash where such a variable is set, busybox everywhere else.
#include <ctype.h>
#include <string.h>
#include <unistd.h>

static int is_identifier(const char *entry) {
    const char *end = strchr(entry, '=');
    if (!end || end == entry || isdigit((unsigned char)*entry)) return 0;
    for (const char *c = entry; c < end; c++)
        if (!isalnum((unsigned char)*c) && *c != '_') return 0;
    return 1;
}

int main(int argc, char **argv, char **environment) {
    (void)argc;
    for (char **entry = environment; *entry; entry++)
        if (!is_identifier(*entry)) {
            execve("/bin/bash", argv, environment);
            return 127;
        }
    execve("/bin/busybox", argv, environment);
    return 127;
}
