//! Counts what each piece of the hot path costs, and compares that with `benches/hot-path.txt`.
//!
//! Each piece is done 2,000 and 12,000 times, in processes of their own under valgrind's callgrind. The difference is
//! what 10,000 cost: without the start, the making ready, and the first few, which warm up caches and buffers.
//!
//! The counts are those of the release profile with the system's allocator, which can be counted, on the processor that
//! valgrind shows: it has no SHA extensions, so where headers are missing the hash of the trace costs more than in truth.

use std::{
    alloc::System,
    env, fs,
    io::{self, Write as _},
    process::{Child, Command, ExitCode, Stdio},
};

use headwater_benches::hot_path::{
    figures::{self, Figure},
    pieces::{self, MOST, PIECES},
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/hot-path.txt");
const FEW: usize = 2_000;
const USAGE: &str = "usage: hot-path check | record | run PIECE COUNT";
const MEND: &str = "make it cheaper; or, where the cost is worth it, write the file anew with `cargo run --release -p \
                    headwater-benches --bin hot-path -- record` and say in the commit why";

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["run", piece, count] => run(piece, count),
        ["check"] => check(),
        ["record"] => record(),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            _ = writeln!(io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

/// Does one piece, and prints how often that allocated.
fn run(piece: &str, count: &str) -> Result<()> {
    let count = count.parse().ok().filter(|count| *count <= MOST).ok_or_else(|| format!("a count up to {MOST}"))?;
    let mut run = pieces::ready(piece).ok_or_else(|| format!("no piece `{piece}`"))?;
    let region = Region::new(ALLOCATOR);
    run(count);
    let change = region.change();
    say(&format!("{}", change.allocations + change.reallocations))?;
    // What is left over of what was made ready costs the more the less was done.
    std::mem::forget(run);
    Ok(())
}

fn check() -> Result<()> {
    let text = fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
    let recorded = figures::read(&text).map_err(|why| format!("{FILE}: {why}"))?;
    let (from, now) = (from()?, measure_all()?);
    let all = figures::compare(&recorded, &now);
    say(&all.table)?;
    if !text.contains(&from) {
        say(&format!("these are from {from}; the file's are not, and may differ for that alone"))?;
    }
    if !all.better.is_empty() {
        say(&format!(
            "better than recorded; write the file anew, so that it stays so:\n  {}",
            all.better.join("\n  ")
        ))?;
    }
    if all.faults.is_empty() {
        return Ok(());
    }
    Err(format!("the hot path costs more than {FILE} says:\n  {}\n{MEND}", all.faults.join("\n  ")))
}

fn record() -> Result<()> {
    let text = figures::write(&measure_all()?, &from()?);
    fs::write(FILE, &text).map_err(|error| format!("{FILE}: {error}"))?;
    say(&text)
}

/// What the counts depend on beside the code.
fn from() -> Result<String> {
    let version = |program: &str| {
        let run = Command::new(program).arg("--version").output();
        let out =
            run.map_err(|error| format!("cannot run {program}: {error}; install it: apt-get install {program}"))?;
        Ok::<_, String>(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    Ok(format!("{}, {}, {} {}", version("rustc")?, version("valgrind")?, env::consts::ARCH, env::consts::OS))
}

fn measure_all() -> Result<Vec<Figure>> {
    let measure = |(number, (piece, _)): (usize, &(&str, _))| {
        _ = writeln!(io::stderr(), "{:>2}/{} {piece}", number + 1, PIECES.len());
        measure(piece)
    };
    PIECES.iter().enumerate().map(measure).collect()
}

fn measure(piece: &str) -> Result<Figure> {
    let (few, most) = (start(piece, FEW)?, start(piece, MOST)?);
    let (few, most) = (counts(piece, few)?, counts(piece, most)?);
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let each = |few: f64, most: f64| (most - few) / (MOST - FEW) as f64;
    let allocations = (each(few.1, most.1) * 100.0).round() / 100.0;
    Ok(Figure { piece: piece.to_owned(), instructions: each(few.0, most.0).round(), allocations })
}

fn start(piece: &str, count: usize) -> Result<Child> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    valgrind.args(["run", piece, &count.to_string()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    valgrind.spawn().map_err(|error| format!("cannot run valgrind: {error}; install it: apt-get install valgrind"))
}

/// Instructions of the whole process, and allocations of the piece.
fn counts(piece: &str, child: Child) -> Result<(f64, f64)> {
    let out = child.wait_with_output().map_err(|error| error.to_string())?;
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let instructions = stderr.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match (instructions, stdout.trim().parse()) {
        (Some(instructions), Ok(allocations)) if out.status.success() => Ok((instructions, allocations)),
        _ => Err(format!("{piece}: callgrind counted nothing ({}):\n{stderr}", out.status)),
    }
}

fn say(text: &str) -> Result<()> {
    writeln!(io::stdout(), "{text}").map_err(|error| error.to_string())
}
