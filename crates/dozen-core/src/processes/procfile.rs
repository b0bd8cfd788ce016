//! The Procfile parser.
