//! Runs every file under `testscripts/` and compares what the state machine says with what the file expects.
//!
//! A file is named as the claim it proves and holds blocks: commands, a line `---`, the expected output, an empty line.
//! `UPDATE_GOLDEN=1 cargo test -p rollcall-registry --test scripts` writes the output into the files instead; read the
//! difference before you commit it. The commands are described at [`session::Session`].

mod session;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use session::Session;

const SEPARATOR: &str = "---";

#[test]
fn scripts_say_what_they_claim() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(!files.is_empty(), "no scripts under {}", root.display());

    let mut differences = String::new();
    for file in &files {
        let expected = fs::read_to_string(file).expect("a script is readable text");
        let name = file.strip_prefix(&root).expect("collected below the root").display();
        let actual = run(&expected).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        if actual == expected {
            continue;
        }
        if update {
            fs::write(file, actual).expect("a script is writable");
        } else {
            write!(differences, "\n{name}\n{}", difference(&expected, &actual)).expect("writing to a string");
        }
    }
    assert!(differences.is_empty(), "scripts differ; UPDATE_GOLDEN=1 rewrites them:\n{differences}");
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the script directory is readable") {
        let path = entry.expect("the script directory is readable").path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

/// The script with the output it really has.
fn run(script: &str) -> Result<String, String> {
    let mut session = Session::new();
    let mut blocks = Vec::new();
    let mut lines = script.lines();
    while lines.clone().any(|line| !line.is_empty()) {
        let input: Vec<&str> = lines.by_ref().take_while(|line| *line != SEPARATOR).collect();
        lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
        let mut block = input.join("\n") + "\n" + SEPARATOR + "\n";
        for line in input.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            for said in session.command(line).map_err(|fault| format!("`{line}`: {fault}"))? {
                block.push_str(&said);
                block.push('\n');
            }
        }
        blocks.push(block);
    }
    Ok(blocks.join("\n"))
}

/// The lines of both from the first that differs to the last, with one of context.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let same = |(a, b): &(&&str, &&str)| a == b;
    let head = expected.iter().zip(&actual).take_while(same).count();
    let shorter = expected.len().min(actual.len()) - head;
    let tail = expected.iter().rev().zip(actual.iter().rev()).take(shorter).take_while(same).count();
    let mut text = String::new();
    let mut put = |mark: char, lines: &[&str]| {
        for line in lines {
            writeln!(text, "    {mark} {line}").expect("writing to a string");
        }
    };
    put(' ', &expected[head.saturating_sub(1)..head]);
    put('-', &expected[head..expected.len() - tail]);
    put('+', &actual[head..actual.len() - tail]);
    put(' ', &expected[expected.len() - tail..(expected.len() - tail + 1).min(expected.len())]);
    text
}
