//! The files of the lake. The only module that names the Parquet library.

pub mod reader;
