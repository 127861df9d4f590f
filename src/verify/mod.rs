pub mod canon;
pub mod clock;
pub mod compare;
pub mod entry;
pub mod lake_plan;
pub mod row;
pub mod source_plan;
