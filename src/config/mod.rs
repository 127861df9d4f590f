//! The configuration: its schema, its loading, its errors.

pub mod model;
