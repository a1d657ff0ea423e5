//! Messages to a prompt, by the template that the model carries.
