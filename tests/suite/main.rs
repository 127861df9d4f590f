//! The one test binary: every module runs against the same real PostgreSQL and Apache Kafka.
