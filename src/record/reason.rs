//! Why a record is a dead letter: one table for the files, the metric's label and the reference.

macro_rules! reasons {
    ($($variant:ident $name:literal $meaning:literal;)*) => {
        /// The closed set of reasons.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $(#[doc = $meaning] $variant,)* }

        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];

            /// As in `error_reason` and in the metric's label.
            pub fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$variant => $meaning,)* }
            }
        }
    };
}

reasons! {
    SchemaValidationFailed "schema_validation_failed" "Not a JSON object, or a field does not fit its column; error_detail says which.";
    MissingRequiredField "missing_required_field" "A required field, or the date column, is absent or null.";
    InvalidTimestamp "invalid_timestamp" "The date column holds no timestamp with a zone between the years 1 and 9999.";
    NullKey "null_key" "A field listed in not_null is absent or null.";
    NegativeAmount "negative_amount" "A field listed in non_negative is below zero.";
}

/// Why a row is a dead letter of capture: its JSON is beyond `capture.max_row_bytes`.
pub const ROW_TOO_LARGE: &str = "row_too_large";

/// Why one record is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Reason,
    /// For people: the field, and what is wrong with it.
    pub detail: String,
}

impl Rejection {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Rejection { reason, detail: detail.into() }
    }
}
