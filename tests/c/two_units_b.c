/* See two_units_a.c. */
#include "tern.h"
#include "tern.h"

tern_status eval_in_b(tern_session *session, tern_token token);

tern_status eval_in_b(tern_session *session, tern_token token) {
    return tern_session_eval(session, &token, 1);
}
