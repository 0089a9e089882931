//! Column types: what an Avro type becomes, and which existing column can take it.

use std::fmt;

/// Numbers with more digits than a column may declare go to plain `numeric`.
const MAX_DECLARED_PRECISION: u32 = 1_000;

/// The Postgres type that an Avro type maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SqlType {
    Bool,
    Int4,
    Int8,
    Float4,
    Float8,
    Text,
    Bytea,
    /// Digits in all, and after the point; `None` takes any.
    Numeric(Option<(u32, u32)>),
    Uuid,
    Date,
    Time,
    TimestampTz,
    Timestamp,
    Interval,
    Jsonb,
}

impl SqlType {
    /// `numeric(precision, scale)` where a column can declare that.
    pub(crate) fn decimal(precision: usize, scale: usize) -> Self {
        match (u32::try_from(precision), u32::try_from(scale)) {
            (Ok(p), Ok(s)) if p <= MAX_DECLARED_PRECISION && s <= p => Self::Numeric(Some((p, s))),
            _ => Self::Numeric(None),
        }
    }

    /// The object ids of the type in which values travel and of its array; fixed in `pg_type.dat`.
    /// Numbers of any length travel as text.
    pub(crate) fn oids(self) -> (u32, u32) {
        match self {
            Self::Bool => (16, 1000),
            Self::Bytea => (17, 1001),
            Self::Int8 => (20, 1016),
            Self::Int4 => (23, 1007),
            Self::Text | Self::Numeric(_) => (25, 1009),
            Self::Float4 => (700, 1021),
            Self::Float8 => (701, 1022),
            Self::Date => (1082, 1182),
            Self::Time => (1083, 1183),
            Self::Timestamp => (1114, 1115),
            Self::TimestampTz => (1184, 1185),
            Self::Interval => (1186, 1187),
            Self::Uuid => (2950, 2951),
            Self::Jsonb => (3802, 3807),
        }
    }

    /// The name of the type in which values travel.
    pub(crate) fn wire(self) -> String {
        match self {
            Self::Numeric(_) => "text".to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for SqlType {
    /// As in `create table`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "boolean",
            Self::Int4 => "int4",
            Self::Int8 => "int8",
            Self::Float4 => "float4",
            Self::Float8 => "float8",
            Self::Text => "text",
            Self::Bytea => "bytea",
            Self::Numeric(Some((precision, scale))) => return write!(f, "numeric({precision},{scale})"),
            Self::Numeric(None) => "numeric",
            Self::Uuid => "uuid",
            Self::Date => "date",
            Self::Time => "time",
            Self::TimestampTz => "timestamptz",
            Self::Timestamp => "timestamp",
            Self::Interval => "interval",
            Self::Jsonb => "jsonb",
        })
    }
}

/// The type of a column that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ColumnType {
    /// One that we make ourselves.
    Sql(SqlType),
    /// One that takes text by a cast: `varchar`, an enum, `citext`. The name is SQL text, as the server quotes it.
    FromText(String),
    /// The same with room for so many characters: `varchar(10)`. Postgres cuts blanks off that go beyond it.
    ShortText(String, usize),
    /// A time or an interval that keeps so many digits of a second, fewer than six. Postgres rounds to them.
    Coarse(SqlType, u32),
    /// `json`.
    Json,
    /// One that no Avro type goes into.
    Other,
}

/// What a column that is too narrow can become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Widening {
    /// The server changes its catalogue alone (`numeric_support` in numeric.c).
    InPlace(SqlType),
    /// The server writes every row anew, and nobody reads the table meanwhile.
    Rewritten(SqlType),
}

impl ColumnType {
    /// From the catalogue: the type's plain name, `format_type` without a modifier, the modifier, and `typtype`.
    pub(crate) fn of(name: &str, formatted: &str, modifier: i32, kind: &str) -> Self {
        let sql = match name {
            "bool" => SqlType::Bool,
            "int4" => SqlType::Int4,
            "int8" => SqlType::Int8,
            "float4" => SqlType::Float4,
            "float8" => SqlType::Float8,
            "text" => SqlType::Text,
            "bytea" => SqlType::Bytea,
            // One with a scale below 0 rounds whole digits away.
            "numeric" if modifier >= 4 && (modifier - 4) & 0x400 != 0 => return Self::Other,
            "numeric" => SqlType::Numeric(numeric_modifier(modifier)),
            "uuid" => SqlType::Uuid,
            "date" => SqlType::Date,
            "time" => return Self::moment(SqlType::Time, modifier),
            "timestamptz" => return Self::moment(SqlType::TimestampTz, modifier),
            "timestamp" => return Self::moment(SqlType::Timestamp, modifier),
            // Precision and fields, 16 bits each (`utils/timestamp.h`): one of some fields loses the others.
            "interval" if modifier >= 0 && modifier >> 16 != 0x7fff => return Self::Other,
            "interval" if modifier >= 0 => return Self::moment(SqlType::Interval, modifier & 0xffff),
            "interval" => SqlType::Interval,
            "jsonb" => SqlType::Jsonb,
            "json" => return Self::Json,
            "varchar" | "bpchar" if modifier > 4 => {
                return Self::ShortText(formatted.to_owned(), usize::try_from(modifier - 4).unwrap_or_default());
            }
            "varchar" | "bpchar" | "citext" => return Self::FromText(formatted.to_owned()),
            _ if kind == "e" => return Self::FromText(formatted.to_owned()),
            _ => return Self::Other,
        };
        Self::Sql(sql)
    }

    fn moment(sql: SqlType, digits: i32) -> Self {
        match u32::try_from(digits) {
            Ok(digits) if digits < 6 => Self::Coarse(sql, digits),
            _ => Self::Sql(sql),
        }
    }

    /// Whether a field of type `field` can be stored here without losing anything.
    pub(crate) fn takes(&self, field: SqlType) -> bool {
        use SqlType::{Float4, Float8, Int4, Int8, Jsonb, Numeric, Text, Uuid};
        match (field, self) {
            (Jsonb, Self::Json) | (Text, Self::FromText(_) | Self::ShortText(..)) => true,
            // What it would round is refused value by value.
            (field, Self::Coarse(sql, _)) => field == *sql,
            (Numeric(Some((p, s))), Self::Sql(Numeric(Some((column_p, column_s))))) => {
                s <= *column_s && p - s <= column_p.saturating_sub(*column_s)
            }
            (Int4 | Int8 | Numeric(_), Self::Sql(Numeric(None)))
            | (Int4, Self::Sql(Int8))
            | (Float4, Self::Sql(Float8))
            | (Text, Self::Sql(Uuid))
            | (Uuid, Self::Sql(Text)) => true,
            (field, Self::Sql(column)) => field == *column,
            _ => false,
        }
    }

    /// What this column must become to take a field that it is too narrow for.
    pub(crate) fn widened(&self, field: SqlType) -> Option<Widening> {
        use SqlType::{Float4, Float8, Int4, Int8, Numeric};
        match (self, field) {
            (Self::Sql(Int4), Int8) | (Self::Sql(Float4), Float8) => Some(Widening::Rewritten(field)),
            (Self::Sql(Numeric(Some(_))), Numeric(None)) => Some(Widening::InPlace(field)),
            (Self::Sql(Numeric(Some((precision, scale)))), Numeric(Some((field_precision, field_scale)))) => {
                let before = precision.saturating_sub(*scale).max(field_precision.saturating_sub(field_scale));
                let after = field_scale.max(*scale);
                let wide = match before + after {
                    digits if digits <= MAX_DECLARED_PRECISION => Numeric(Some((digits, after))),
                    _ => Numeric(None),
                };
                // With other digits after the point each number is written anew.
                let in_place = after == *scale || wide == Numeric(None);
                Some(if in_place { Widening::InPlace(wide) } else { Widening::Rewritten(wide) })
            }
            _ => None,
        }
    }

    /// The type in which values travel to this column.
    pub(crate) fn wire(&self) -> SqlType {
        match self {
            Self::Sql(sql) | Self::Coarse(sql, _) => *sql,
            Self::Json => SqlType::Jsonb,
            Self::FromText(_) | Self::ShortText(..) | Self::Other => SqlType::Text,
        }
    }

    /// What is to be appended to a value that has travelled, `::numeric`; often nothing.
    pub(crate) fn cast(&self) -> String {
        match self {
            Self::Sql(SqlType::Numeric(_)) => "::numeric".to_owned(),
            Self::FromText(name) | Self::ShortText(name, _) => format!("::{name}"),
            Self::Json => "::json".to_owned(),
            Self::Sql(_) | Self::Coarse(..) | Self::Other => String::new(),
        }
    }

    /// Whether values are the same exactly when their bytes are; only then can a key be told from another before
    /// Postgres sees it.
    pub(crate) fn can_be_key(&self) -> bool {
        match self {
            Self::Sql(sql) | Self::Coarse(sql, _) => {
                !matches!(sql, SqlType::Float4 | SqlType::Float8 | SqlType::Interval | SqlType::Jsonb)
            }
            Self::FromText(name) | Self::ShortText(name, _) => name == "character varying",
            Self::Json | Self::Other => false,
        }
    }
}

/// `((precision << 16) | scale) + 4`, from numeric.c; a scale below 0 counts as "any", since it rounds.
fn numeric_modifier(modifier: i32) -> Option<(u32, u32)> {
    let packed = u32::try_from(modifier.checked_sub(4)?).ok()?;
    let scale = packed & 0x7ff;
    Some((packed >> 16, if scale > 0x3ff { 0 } else { scale }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a column with too few digits on either side of the point takes the number.
    #[test]
    fn a_number_goes_only_where_all_its_digits_fit() {
        let column = |p, s| ColumnType::Sql(SqlType::Numeric(Some((p, s))));
        assert!(column(12, 4).takes(SqlType::decimal(10, 2)));
        assert!(!column(10, 4).takes(SqlType::decimal(10, 2)));
        assert!(!column(12, 1).takes(SqlType::decimal(10, 2)));
        assert!(ColumnType::Sql(SqlType::Numeric(None)).takes(SqlType::decimal(10, 2)));
        assert!(!column(10, 2).takes(SqlType::Numeric(None)));
        assert_eq!(SqlType::decimal(2_000, 2), SqlType::Numeric(None));
        assert_eq!(numeric_modifier((10 << 16 | 2) + 4), Some((10, 2)));
        assert_eq!(numeric_modifier(-1), None);
    }

    /// Red when a column is narrowed on one side of the point to be widened on the other, or what is written anew is not told
    /// from what is not.
    #[test]
    fn a_column_that_is_too_narrow_becomes_as_wide_as_both() {
        let column = |p, s| ColumnType::Sql(SqlType::Numeric(Some((p, s))));
        let in_place = |p, s| Some(Widening::InPlace(SqlType::decimal(p, s)));
        assert_eq!(column(10, 2).widened(SqlType::decimal(12, 2)), in_place(12, 2));
        assert_eq!(column(10, 4).widened(SqlType::decimal(12, 2)), in_place(14, 4));
        assert_eq!(column(10, 2).widened(SqlType::Numeric(None)), Some(Widening::InPlace(SqlType::Numeric(None))));
        assert_eq!(column(10, 2).widened(SqlType::decimal(8, 4)), Some(Widening::Rewritten(SqlType::decimal(12, 4))));
        assert_eq!(ColumnType::Sql(SqlType::Int4).widened(SqlType::Int8), Some(Widening::Rewritten(SqlType::Int8)));
        assert_eq!(ColumnType::Sql(SqlType::Int8).widened(SqlType::Int4), None);
        assert_eq!(ColumnType::Sql(SqlType::Text).widened(SqlType::Int8), None);
    }

    /// Red when an int8 is let into an int4 column, or text into one that would have to guess.
    #[test]
    fn a_column_takes_what_loses_nothing() {
        assert!(ColumnType::Sql(SqlType::Int8).takes(SqlType::Int4));
        assert!(!ColumnType::Sql(SqlType::Int4).takes(SqlType::Int8));
        assert!(ColumnType::of("varchar", "character varying", 14, "b").takes(SqlType::Text));
        assert!(!ColumnType::Sql(SqlType::Jsonb).takes(SqlType::Text));
        assert!(!ColumnType::of("money", "money", -1, "b").takes(SqlType::Int8));
        // numeric(2,-3), interval year to month, and interval(0), which takes what it does not round.
        assert!(!ColumnType::of("numeric", "numeric", (2 << 16 | 0x7fd) + 4, "b").takes(SqlType::decimal(1, 0)));
        assert!(!ColumnType::of("interval", "interval", 6 << 16 | 0xffff, "b").takes(SqlType::Interval));
        let whole = ColumnType::of("interval", "interval", 0x7fff << 16, "b");
        assert_eq!((whole.takes(SqlType::Interval), whole), (true, ColumnType::Coarse(SqlType::Interval, 0)));
    }
}
