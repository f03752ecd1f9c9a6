//! Runs the service over ports.
