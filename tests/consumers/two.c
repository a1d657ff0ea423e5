/* Three archives that each hold the Rust standard library, in one program: tern; another library, as
 * cargo makes it; and tern once more under other names. */
#include <stdio.h>
#include <string.h>
#include <tern.h>

extern int other_answer(void);
extern const char *other_tern_version(void);
extern const char *other_tern_last_error(void);
extern tern_status other_tern_model_load(const char *, const void *, void **);

#define EXPECT(condition)                                                            \
    do {                                                                             \
        if (!(condition)) {                                                          \
            fprintf(stderr, "two.c:%d: not so: %s\n", __LINE__, #condition);         \
            return 1;                                                                \
        }                                                                            \
    } while (0)

int main(void) {
    tern_model *model = NULL;
    void *other_model = NULL;

    EXPECT(other_answer() == 42);
    EXPECT(tern_model_load("/nonexistent", NULL, &model) == TERN_ERROR_IO);
    EXPECT(other_tern_model_load("/nonexistent", NULL, &other_model) == TERN_ERROR_IO);
    EXPECT(strcmp(tern_version(), other_tern_version()) == 0);
    EXPECT(tern_last_error() != other_tern_last_error()); /* each has a state of its own */
    printf("two.c: all three are well\n");
    return 0;
}
