//! Identifiers, quoted in one place.

use std::fmt;

use super::error::PostgresError;

/// Postgres cuts longer identifiers off without a word.
const MAX_IDENTIFIER_BYTES: usize = 63;

/// An identifier as SQL text, whatever its characters.
///
/// # Errors
/// [`PostgresError::Config`] for an empty name, one with a NUL character, or one past 63 bytes.
pub(super) fn quote(name: &str) -> Result<String, PostgresError> {
    if name.is_empty() || name.contains('\0') || name.len() > MAX_IDENTIFIER_BYTES {
        return Err(PostgresError::Config(format!(
            "`{}` cannot be a name in postgres: 1 to {MAX_IDENTIFIER_BYTES} bytes without NUL",
            name.escape_debug()
        )));
    }
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}

/// A table's name: `orders`, which is in `public`, or `schema.orders`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableName {
    pub(super) schema: String,
    pub(super) table: String,
    sql: String,
    pub(super) quoted_schema: String,
}

impl TableName {
    pub(super) fn parse(text: &str) -> Result<Self, PostgresError> {
        let (schema, table) = text.split_once('.').unwrap_or(("public", text));
        let quoted_schema = quote(schema)?;
        let sql = format!("{quoted_schema}.{}", quote(table)?);
        Ok(Self { schema: schema.to_owned(), table: table.to_owned(), sql, quoted_schema })
    }

    /// The qualified name as SQL text.
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }
}

impl fmt::Display for TableName {
    /// For people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when quotes are not doubled or the limits are dropped.
    #[test]
    fn a_name_is_quoted_or_refused() {
        assert_eq!(quote("select").unwrap(), "\"select\"");
        assert_eq!(quote("a\"; drop table x; --").unwrap(), "\"a\"\"; drop table x; --\"");
        assert!(quote("").is_err());
        assert!(quote("a\0b").is_err());
        assert!(quote(&"x".repeat(63)).is_ok());
        assert!(quote(&"x".repeat(64)).is_err());
    }

    /// Red when the schema is taken from the last dot or not at all.
    #[test]
    fn a_table_is_in_public_unless_it_says_otherwise() {
        assert_eq!(TableName::parse("orders").unwrap().sql(), "\"public\".\"orders\"");
        assert_eq!(TableName::parse("sales.orders").unwrap().sql(), "\"sales\".\"orders\"");
        assert_eq!(TableName::parse("sales.\"x").unwrap().sql(), "\"sales\".\"\"\"x\"");
    }
}
