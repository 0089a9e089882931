//! Values as Postgres arrays in binary, one array per column: what `UNNEST` takes.

use apache_avro::types::Value;
use sqlx::{
    Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo, types::Oid},
};
use uuid::Uuid;

use super::{
    json,
    layout::{Field, Layout, Shape},
    number,
    types::{ColumnType, SqlType},
};

/// 2000-01-01, where Postgres counts from, in days and microseconds since 1970-01-01.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// 4714-11-24 BC (day 0 of the Julian count) and the day after the last of 5874897 AD, in Postgres' days (`datatype/timestamp.h`).
const DATES: std::ops::Range<i32> = -2_451_545..2_145_031_949;
/// 4714-11-24 BC to the end of 294276 AD, in Postgres' microseconds.
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
const DAY_MICROS: i64 = 86_400_000_000;

const OUT_OF_RANGE: &str = "a date or time is out of range";
const MISFIT: &str = "a value is not of the type that its schema says";

/// Milliseconds since 1970, brought within what `timestamptz` and a count of microseconds can hold.
pub(crate) fn nearest_millis(millis: i64) -> i64 {
    millis.clamp((TIMESTAMPS.start + EPOCH_MICROS) / 1_000, i64::MAX / 1_000)
}

/// Why a value cannot be stored; says nothing of the value itself.
type Why = &'static str;

/// One column of many rows, in the array's binary format.
#[derive(Debug)]
pub(crate) struct Array {
    sql: SqlType,
    items: Vec<u8>,
    len: i32,
    nulls: bool,
}

impl Array {
    pub(crate) fn new(sql: SqlType, rows: usize) -> Self {
        Self { sql, items: Vec::with_capacity(rows.saturating_mul(16)), len: 0, nulls: false }
    }

    pub(crate) fn null(&mut self) {
        self.items.extend_from_slice(&(-1i32).to_be_bytes());
        self.nulls = true;
        self.len = self.len.saturating_add(1);
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<(), Why> {
        if text.contains('\0') {
            return Err("text holds a NUL character");
        }
        self.bytes(text.as_bytes())
    }

    pub(crate) fn int4(&mut self, number: i32) -> Result<(), Why> {
        self.bytes(&number.to_be_bytes())
    }

    pub(crate) fn int8(&mut self, number: i64) -> Result<(), Why> {
        self.bytes(&number.to_be_bytes())
    }

    /// Microseconds since 1970.
    pub(crate) fn timestamp(&mut self, micros: i64) -> Result<(), Why> {
        let micros = micros.checked_sub(EPOCH_MICROS).filter(|m| TIMESTAMPS.contains(m)).ok_or(OUT_OF_RANGE)?;
        self.int8(micros)
    }

    /// JSON text, for `jsonb`, which in binary begins with its version.
    pub(crate) fn json(&mut self, text: &[u8]) -> Result<(), Why> {
        self.with(|out| {
            out.push(1);
            out.extend_from_slice(text);
            Ok(())
        })
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Why> {
        self.with(|out| {
            out.extend_from_slice(bytes);
            Ok(())
        })
    }

    /// Appends an item of a length that is known only once it is written.
    fn with(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Why>) -> Result<(), Why> {
        let start = self.items.len();
        self.items.extend_from_slice(&[0; 4]);
        write(&mut self.items)?;
        let len = i32::try_from(self.items.len() - start - 4).map_err(|_| "a value is longer than 2 GiB")?;
        self.items[start..start + 4].copy_from_slice(&len.to_be_bytes());
        self.len = self.len.saturating_add(1);
        Ok(())
    }

    /// The items' bytes: equal for equal rows.
    pub(crate) fn into_items(self) -> Vec<u8> {
        self.items
    }

    /// Appends a value of `field` for a column of type `column`, which takes the field's type.
    pub(crate) fn value(
        &mut self,
        value: &Value,
        field: &Field,
        layout: &Layout,
        column: &ColumnType,
    ) -> Result<(), Why> {
        let (value, shape) = match (value, layout.resolve(&field.shape)) {
            (Value::Union(branch, inner), Shape::Branches(shapes)) if self.sql != SqlType::Jsonb => {
                let branch = usize::try_from(*branch).unwrap_or(usize::MAX);
                (inner.as_ref(), shapes.get(branch).unwrap_or(&Shape::Plain))
            }
            (value, shape) => (value, shape),
        };
        match self.sql {
            _ if is_null(value) => self.null(),
            SqlType::Numeric(room) => self.text(&numeric(value, layout.resolve(shape), room)?)?,
            SqlType::Jsonb => {
                // `jsonb` in binary begins with its version.
                self.with(|out| {
                    out.push(1);
                    json::write(value, shape, layout, out)
                })?;
            }
            SqlType::Date | SqlType::Time | SqlType::TimestampTz | SqlType::Timestamp | SqlType::Interval => {
                self.moment(value, column)?;
            }
            _ => self.scalar(value, column)?,
        }
        Ok(())
    }

    fn scalar(&mut self, value: &Value, column: &ColumnType) -> Result<(), Why> {
        match (self.sql, value) {
            (SqlType::Bool, Value::Boolean(b)) => self.bytes(&[u8::from(*b)]),
            (SqlType::Int4, Value::Int(n)) => self.int4(*n),
            (SqlType::Int8, Value::Int(n)) => self.int8(i64::from(*n)),
            (SqlType::Int8, Value::Long(n)) => self.int8(*n),
            (SqlType::Float4, Value::Float(n)) => self.bytes(&n.to_be_bytes()),
            (SqlType::Float8, Value::Float(n)) => self.bytes(&f64::from(*n).to_be_bytes()),
            (SqlType::Float8, Value::Double(n)) => self.bytes(&n.to_be_bytes()),
            (SqlType::Text, Value::String(text) | Value::Enum(_, text)) => match column {
                ColumnType::ShortText(_, most) if is_cut(text, *most) => {
                    Err("text ends with blanks that its column cuts off")
                }
                _ => self.text(text),
            },
            (SqlType::Text, Value::Uuid(id)) if *column == ColumnType::Sql(SqlType::Text) => self.text(&id.to_string()),
            (SqlType::Bytea, Value::Bytes(bytes) | Value::Fixed(_, bytes)) => self.bytes(bytes),
            (SqlType::Uuid, Value::Uuid(id)) => self.bytes(id.as_bytes()),
            (SqlType::Uuid, Value::String(text)) => {
                self.bytes(Uuid::parse_str(text).map_err(|_| "text is no uuid")?.as_bytes())
            }
            _ => Err(MISFIT),
        }
    }

    fn moment(&mut self, value: &Value, column: &ColumnType) -> Result<(), Why> {
        let kept = |micros: i64| match column {
            ColumnType::Coarse(_, digits) if micros % 10_i64.pow(6_u32.saturating_sub(*digits)) != 0 => {
                Err("a time is finer than its column, which would round it")
            }
            _ => Ok(micros),
        };
        match (self.sql, value) {
            (SqlType::Date, Value::Date(days)) => {
                let days = days.checked_sub(EPOCH_DAYS).filter(|d| DATES.contains(d)).ok_or(OUT_OF_RANGE)?;
                self.int4(days)
            }
            (SqlType::Time, Value::TimeMillis(n)) => self.time(kept(i64::from(*n) * 1_000)?),
            (SqlType::Time, Value::TimeMicros(n)) => self.time(kept(*n)?),
            (SqlType::TimestampTz, Value::TimestampMillis(n))
            | (SqlType::Timestamp, Value::LocalTimestampMillis(n)) => {
                self.timestamp(kept(n.checked_mul(1_000).ok_or(OUT_OF_RANGE)?)?)
            }
            (SqlType::TimestampTz, Value::TimestampMicros(n))
            | (SqlType::Timestamp, Value::LocalTimestampMicros(n)) => self.timestamp(kept(*n)?),
            (SqlType::TimestampTz, Value::TimestampNanos(n)) | (SqlType::Timestamp, Value::LocalTimestampNanos(n)) => {
                self.timestamp(kept(n.div_euclid(1_000))?)
            }
            (SqlType::Interval, Value::Duration(duration)) => {
                let part = |n: u32| i32::try_from(n).map_err(|_| OUT_OF_RANGE);
                let days = part(duration.days().into())?;
                let months = part(duration.months().into())?;
                let micros = kept(i64::from(u32::from(duration.millis())) * 1_000)?;
                self.with(|out| {
                    out.extend_from_slice(&micros.to_be_bytes());
                    out.extend_from_slice(&days.to_be_bytes());
                    out.extend_from_slice(&months.to_be_bytes());
                    Ok(())
                })
            }
            _ => Err(MISFIT),
        }
    }

    fn time(&mut self, micros: i64) -> Result<(), Why> {
        if (0..=DAY_MICROS).contains(&micros) { self.int8(micros) } else { Err(OUT_OF_RANGE) }
    }

    /// Appends the key column's value that a record's key, as text, stands for.
    pub(crate) fn record_key(&mut self, key: &[u8]) -> Result<(), Why> {
        const UNREADABLE: &str = "a record's key is not text of the key column's type";
        if self.sql == SqlType::Bytea {
            return self.bytes(key);
        }
        let text = std::str::from_utf8(key).map_err(|_| UNREADABLE)?;
        match self.sql {
            SqlType::Text => self.text(text),
            SqlType::Bool => self.bytes(&[u8::from(text.parse::<bool>().map_err(|_| UNREADABLE)?)]),
            SqlType::Int4 => self.int4(text.parse().map_err(|_| UNREADABLE)?),
            SqlType::Int8 => self.int8(text.parse().map_err(|_| UNREADABLE)?),
            SqlType::Uuid => self.bytes(Uuid::parse_str(text).map_err(|_| UNREADABLE)?.as_bytes()),
            SqlType::Numeric(_) if number::is_plain(text) => self.text(text),
            _ => Err(UNREADABLE),
        }
    }

    /// Whether [`Array::record_key`] can read a key of this type.
    pub(crate) fn reads_record_key(sql: SqlType) -> bool {
        use SqlType::{Bool, Bytea, Int4, Int8, Numeric, Text, Uuid};
        matches!(sql, Bool | Bytea | Int4 | Int8 | Numeric(_) | Text | Uuid)
    }
}

impl Type<Postgres> for Array {
    /// Of no use: the type differs from value to value; see `produces`.
    fn type_info() -> PgTypeInfo {
        <Vec<String> as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Array {
    fn encode_by_ref(&self, out: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        // Dimensions, whether there are nulls, the items' type, how many, the first index; from `array_recv`.
        for head in [1, i32::from(self.nulls), i32::try_from(self.sql.oids().0)?, self.len, 1] {
            out.extend_from_slice(&head.to_be_bytes());
        }
        out.extend_from_slice(&self.items);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.sql.oids().1)))
    }

    fn size_hint(&self) -> usize {
        self.items.len() + 20
    }
}

/// Whether blanks alone go beyond so many characters. What else does, Postgres refuses.
fn is_cut(text: &str, most: usize) -> bool {
    text.ends_with(' ') && text.chars().count() > most && text.trim_end_matches(' ').chars().count() <= most
}

/// Whether the value is null, be it a branch of a union.
pub(crate) fn is_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Union(_, inner) => matches!(inner.as_ref(), Value::Null),
        _ => false,
    }
}

fn numeric(value: &Value, shape: &Shape, room: Option<(u32, u32)>) -> Result<String, Why> {
    let text = match (value, shape) {
        (Value::Decimal(decimal), Shape::Decimal(scale)) => {
            let unscaled = Vec::<u8>::try_from(decimal).map_err(|_| MISFIT)?;
            number::decimal(&unscaled, *scale)?
        }
        (Value::BigDecimal(n), _) => {
            let (digits, scale) = n.as_bigint_and_exponent();
            number::plain(&digits.to_string(), scale)?
        }
        (Value::Int(n), _) => n.to_string(),
        (Value::Long(n), _) => n.to_string(),
        _ => return Err(MISFIT),
    };
    match room {
        Some((precision, scale)) if number::integer_digits(&text) > precision.saturating_sub(scale) as usize => {
            Err("a number has more digits than its column")
        }
        _ => Ok(text),
    }
}
