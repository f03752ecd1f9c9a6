//! A client's sessions with all slaves of a grid, over one port or several.
