//! Lines of columns for people, aligned: text to the left, numbers to the right.

/// A table that is printed once it is whole.
#[derive(Debug)]
pub struct Table {
    /// Whether each column holds numbers.
    numeric: Vec<bool>,
    lines: Vec<Line>,
}

#[derive(Debug)]
enum Line {
    Cells(Vec<String>),
    /// Belongs to the cells above it.
    Below(String),
}

impl Table {
    /// A table with these titles; one that begins with `>` is of a column of numbers.
    pub fn new(titles: &[&str]) -> Self {
        let numeric = titles.iter().map(|title| title.starts_with('>')).collect();
        let titles = titles.iter().map(|title| title.trim_start_matches('>').to_owned()).collect();
        Self { numeric, lines: vec![Line::Cells(titles)] }
    }

    /// A line with a cell for each title.
    pub fn row(&mut self, cells: Vec<String>) {
        self.lines.push(Line::Cells(cells));
    }

    /// A line below the last, indented and not aligned.
    pub fn below(&mut self, text: &str) {
        self.lines.push(Line::Below(format!("  {text}")));
    }

    /// The lines, the titles first.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let mut widths = vec![0; self.numeric.len()];
        for line in &self.lines {
            let Line::Cells(cells) = line else { continue };
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = cell.chars().count().max(*width);
            }
        }
        self.lines.iter().map(move |line| match line {
            Line::Below(text) => text.clone(),
            Line::Cells(cells) => {
                let padded = cells.iter().zip(&widths).zip(&self.numeric).map(|((cell, width), numeric)| {
                    if *numeric { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
                });
                padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
            }
        })
    }
}

/// `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a column is as wide as its title alone, or a line below is counted.
    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["GROUP", ">LAG", "NOTE"]);
        table.row(vec!["count-things".to_owned(), "7".to_owned(), String::new()]);
        table.below("a long line that belongs to the row above it");
        table.row(vec!["x".to_owned(), "1234567".to_owned(), "far".to_owned()]);
        let lines: Vec<String> = table.lines().collect();
        let expected = [
            "GROUP             LAG  NOTE",
            "count-things        7",
            "  a long line that belongs to the row above it",
            "x             1234567  far",
        ];
        assert_eq!(lines, expected);
    }
}
