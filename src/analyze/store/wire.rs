//! Times as PostgreSQL sends them: microseconds since 2000, without a detour over text or floats.

use bytes::{BufMut, BytesMut};
use std::error::Error;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

const EPOCH_2000_MS: i64 = 946_684_800_000;
/// What `timestamptz` can hold: from 4713 BC, to the end of the year 294276.
const OLDEST_MS: i64 = -210_866_803_200_000;
const NEWEST_MS: i64 = 9_224_318_015_999_999;

/// Milliseconds since 1970 UTC as a `timestamptz`. A time that PostgreSQL cannot hold becomes the
/// nearest that it can: it must not stop a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp(pub i64);

impl ToSql for Timestamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64((self.0.clamp(OLDEST_MS, NEWEST_MS) - EPOCH_2000_MS) * 1_000);
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Timestamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(Timestamp(micros.div_euclid(1_000).saturating_add(EPOCH_2000_MS)))
    }

    accepts!(TIMESTAMPTZ);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(ms: i64) -> i64 {
        let mut bytes = BytesMut::new();
        Timestamp(ms).to_sql(&Type::TIMESTAMPTZ, &mut bytes).unwrap();
        Timestamp::from_sql(&Type::TIMESTAMPTZ, &bytes).unwrap().0
    }

    #[test]
    fn times_survive_and_the_impossible_are_clamped() {
        for ms in [0, -1, 1, 1_736_943_840_123, -62_135_596_800_000, 253_402_300_799_999, OLDEST_MS, NEWEST_MS] {
            assert_eq!(round_trip(ms), ms);
        }
        assert_eq!((round_trip(i64::MIN), round_trip(i64::MAX)), (OLDEST_MS, NEWEST_MS));
    }
}
