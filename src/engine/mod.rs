//! What a program wants: models, sessions, plans.
