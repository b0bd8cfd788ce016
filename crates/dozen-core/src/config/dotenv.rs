//! The `.env` parser.
