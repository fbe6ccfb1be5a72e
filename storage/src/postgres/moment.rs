//! A `timestamptz` from and to milliseconds, without a crate for dates.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// Milliseconds from 1970 to where PostgreSQL counts from, 2000-01-01.
const POSTGRES_EPOCH_MS: i64 = 946_684_800_000;

/// Object ids of `timestamptz` and of its array, the same in every database.
const TIMESTAMPTZ: Oid = Oid(1184);
const TIMESTAMPTZ_ARRAY: Oid = Oid(1185);

/// Milliseconds since 1970. What lies outside of PostgreSQL's range becomes its nearest end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) i64);

impl Moment {
    /// As PostgreSQL has it in its binary form. The two ends of i64 are infinity and -infinity.
    pub(super) fn to_bytes(self) -> [u8; 8] {
        self.0.saturating_sub(POSTGRES_EPOCH_MS).saturating_mul(1000).to_be_bytes()
    }
}

impl Type<Postgres> for Moment {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl PgHasArrayType for Moment {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ_ARRAY)
    }
}

impl Encode<'_, Postgres> for Moment {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.to_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Moment {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let micros = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        Ok(Self(micros.div_euclid(1000).saturating_add(POSTGRES_EPOCH_MS)))
    }
}
