//! What the pieces cost, in a file, and whether that has risen.

use std::fmt::{self, Write as _};

use super::pieces::BAR;

/// Instructions may rise by this much, of what is recorded: a compiler lays out code differently for less.
const TOLERANCE: f64 = 0.05;
/// Instructions that no rise of one piece is made of: how the compiler lays out one build and another.
const LAYOUT: f64 = 40.0;
/// Where allocations are recorded with two places, this is no difference.
const LEAST: f64 = 0.005;

/// What one piece costs, each time it is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The piece.
    pub piece: String,
    /// Instructions.
    pub instructions: f64,
    /// Calls of the allocator that ask for memory: new, or larger or smaller than before.
    pub allocations: f64,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<20}{:>10.0}{:>10.2}", self.piece, self.instructions, self.allocations)
    }
}

/// The file's lines, below what they say of themselves.
pub fn write(figures: &[Figure], from: &str) -> String {
    let mut text = format!(
        "# What each piece of the hot path costs a record: its name, instructions, allocations.\n\
         # {from}\n\
         # Written by `cargo run --release -p headwater-benches --bin hot-path -- record`; CI compares.\n"
    );
    // Writing to a string cannot fail.
    figures.iter().for_each(|figure| _ = writeln!(text, "{figure}"));
    text
}

/// What [`write()`] has written.
///
/// # Errors
/// The line that is none of its.
pub fn read(text: &str) -> Result<Vec<Figure>, String> {
    let line = |line: &str| {
        let mut words = line.rsplitn(3, char::is_whitespace).filter(|word| !word.is_empty());
        let allocations = words.next()?.parse().ok()?;
        let (piece, instructions) = words.next()?.trim_end().rsplit_once(char::is_whitespace)?;
        Some(Figure { piece: piece.trim_end().to_owned(), instructions: instructions.parse().ok()?, allocations })
    };
    let lines = text.lines().filter(|text| !text.starts_with('#') && !text.trim().is_empty());
    lines.map(|text| line(text).ok_or_else(|| format!("not a name and two numbers: `{text}`"))).collect()
}

/// The figures beside those that are recorded, and what is wrong with them.
#[derive(Debug, Default)]
pub struct Comparison {
    /// A table for people.
    pub table: String,
    /// A sentence for each piece that costs too much, or that is not on both sides.
    pub faults: Vec<String>,
    /// A sentence for each that costs less than it is recorded with.
    pub better: Vec<String>,
}

/// Compares what was measured now with what is recorded.
pub fn compare(recorded: &[Figure], now: &[Figure]) -> Comparison {
    let mut all = Comparison::default();
    let head = ["piece", "instructions", "recorded", "change", "allocations", "recorded"];
    all.line(head[0], head[1], head[2], head[3], head[4], head[5]);
    for figure in now {
        all.add(recorded.iter().find(|before| before.piece == figure.piece), figure);
    }
    for gone in recorded.iter().filter(|before| now.iter().all(|figure| figure.piece != before.piece)) {
        all.faults.push(format!("{}: recorded, and there is no such piece", gone.piece));
    }
    all.bar(now);
    all
}

impl Comparison {
    fn line(&mut self, piece: &str, now: &str, before: &str, change: &str, allocations: &str, earlier: &str) {
        _ = writeln!(self.table, "{piece:<20}{now:>13}{before:>10}{change:>9}{allocations:>13}{earlier:>10}");
    }

    fn add(&mut self, before: Option<&Figure>, now: &Figure) {
        let Figure { piece, instructions, allocations } = now;
        let Some(before) = before else {
            self.line(piece, &format!("{instructions:.0}"), "-", "", &format!("{allocations:.2}"), "-");
            self.faults.push(format!("{piece}: not recorded"));
            return;
        };
        let change = instructions / before.instructions - 1.0;
        let percent = format!("{:+.1} %", change * 100.0);
        let (was, had) = (format!("{:.0}", before.instructions), format!("{:.2}", before.allocations));
        self.line(piece, &format!("{instructions:.0}"), &was, &percent, &format!("{allocations:.2}"), &had);
        let risen = *instructions > before.instructions * (1.0 + TOLERANCE);
        if risen && instructions - before.instructions > LAYOUT {
            self.faults.push(format!("{piece}: {instructions:.0} instructions, {percent} from {was}"));
        }
        if *allocations > before.allocations + LEAST {
            self.faults.push(format!("{piece}: {allocations:.2} allocations, more than {had}"));
        }
        if *instructions < before.instructions * (1.0 - TOLERANCE) || *allocations < before.allocations - LEAST {
            self.better.push(format!("{piece}: {instructions:.0} instructions and {allocations:.2} allocations"));
        }
    }

    /// The engine beside the same by hand.
    fn bar(&mut self, now: &[Figure]) {
        let (engine, bare, bar) = BAR;
        let cost = |piece| now.iter().find(|figure| figure.piece == piece).map(|figure| figure.instructions);
        let (Some(engine_cost), Some(bare_cost)) = (cost(engine), cost(bare)) else { return };
        let ratio = engine_cost / bare_cost;
        _ = writeln!(self.table, "\n{engine}: {ratio:.3} × {bare} (aim: at most {bar})");
        if ratio > bar * (1.0 + TOLERANCE) {
            self.faults.push(format!("{engine}: {ratio:.3} × {bare}, and {bar} is the aim"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(piece: &str, instructions: f64, allocations: f64) -> Figure {
        Figure { piece: piece.to_owned(), instructions, allocations }
    }

    /// Red when 5 % is no bound, a fall is a fault, the change goes by the new figure, or a few instructions are a rise.
    #[test]
    fn instructions_may_rise_by_a_twentieth() {
        for (now, faults, better) in [(1_050.0, 0, 0), (1_051.0, 1, 0), (950.0, 0, 0), (949.0, 0, 1)] {
            let all = compare(&[figure("decode", 1_000.0, 8.0)], &[figure("decode", now, 8.0)]);
            assert_eq!((all.faults.len(), all.better.len()), (faults, better), "{now}: {all:?}");
        }
        let all = compare(&[figure("decode", 1_000.0, 8.0)], &[figure("decode", 1_100.0, 8.0)]);
        assert_eq!(all.faults, ["decode: 1100 instructions, +10.0 % from 1000"]);
        assert!(compare(&[figure("lane", 400.0, 0.0)], &[figure("lane", 440.0, 0.0)]).faults.is_empty());
    }

    /// Red when allocations have a tolerance, or their fall is not said.
    #[test]
    fn allocations_may_only_fall() {
        for (now, faults, better) in [(8.0, 0, 0), (8.01, 1, 0), (7.99, 0, 1)] {
            let all = compare(&[figure("decode", 1_000.0, 8.0)], &[figure("decode", 1_000.0, now)]);
            assert_eq!((all.faults.len(), all.better.len()), (faults, better), "{now}: {all:?}");
        }
    }

    /// Red when a piece can be left out of the file, or of the benches, and nobody hears of it.
    #[test]
    fn a_piece_that_is_on_one_side_only_is_a_fault() {
        let all = compare(&[figure("lane", 100.0, 0.0)], &[figure("lanes", 100.0, 0.0)]);
        assert_eq!(all.faults, ["lanes: not recorded", "lane: recorded, and there is no such piece"]);
    }

    /// Red when the aim is another than 1.2, or what is more than a twentieth over it is only shown.
    #[test]
    fn the_engine_is_held_to_the_bare_calls() {
        for (engine, faults) in [(1_260.0, 0), (1_261.0, 1)] {
            let now = [figure("handle", engine, 9.0), figure("bare handle", 1_000.0, 9.0)];
            let all = compare(&now, &now);
            assert_eq!(all.faults.len(), faults, "{all:?}");
            assert!(all.table.contains("handle: 1.26"), "{}", all.table);
        }
    }

    /// Red when a name with spaces, or a figure, is not read back as it was written.
    #[test]
    fn the_file_is_read_as_it_was_written() {
        let figures = [figure("record, two spans", 40_123.0, 61.05), figure("id", 900.0, 2.0)];
        let text = write(&figures, "some compiler");
        assert_eq!(read(&text).expect("a file of ours"), figures);
        assert!(text.contains("some compiler"));
        assert_eq!(read("decode 12"), Err("not a name and two numbers: `decode 12`".to_owned()));
    }
}
