//! fairlead: asking and rendering.
