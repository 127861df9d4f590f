//! The rules of the house, read off the source itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    // Test modules may stand in files of their own.
    files.retain(|(path, _)| folder != "src" || !path.components().any(|part| part.as_os_str() == "tests"));
    assert!(!files.is_empty(), "no Rust files under {folder}");
    files.sort();
    files
}

/// The lines of a file outside its `#[cfg(test)]` part (by convention the last item) and comments.
fn shipped_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end]
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn offences(folder: &str, is_offence: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in rust_files(folder) {
        let name = path.to_string_lossy().into_owned();
        for (number, line) in shipped_lines(&text) {
            if is_offence(&name, line) {
                found.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    found
}

#[test]
fn stages_do_not_import_each_other() {
    let stages = ["capture", "land", "analyze", "batch"];
    let found = offences("src", |file, line| {
        let Some(own) = stages.iter().find(|stage| file.starts_with(&format!("src/{stage}/"))) else { return false };
        stages.iter().any(|other| {
            other != own
                && (line.contains(&format!("crate::{other}::")) || line.contains(&format!("use crate::{other};")))
        })
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn only_its_module_names_the_kafka_client() {
    let found = offences("src", |file, line| {
        !file.starts_with("src/kafka/") && (line.contains("rdkafka::") || line.contains("use rdkafka"))
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn only_the_lake_names_parquet() {
    let found = offences("src", |file, line| !file.starts_with("src/lake/") && line.contains("parquet::"));
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn files_have_one_idea() {
    let long: Vec<String> = ["src", "tests", "benches"]
        .iter()
        .flat_map(|folder| rust_files(folder))
        .filter(|(_, text)| text.lines().count() > 800)
        .map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count()))
        .collect();
    assert_eq!(long, Vec::<String>::new());
}

#[test]
fn no_panics_by_shorthand_and_nothing_left_open() {
    let found = offences("src", |_, line| {
        [".unwrap()", ".expect(\"", "todo!(", "unimplemented!(", "allow(dead_code)", "allow(unused"]
            .iter()
            .any(|word| line.contains(word))
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn only_output_prints() {
    let found = offences("src", |file, line| {
        file != "src/output.rs" && (line.contains("print!(") || line.contains("println!("))
    });
    assert_eq!(found, Vec::<String>::new(), "these panic where nobody reads: see src/output.rs");
}

#[test]
fn tests_wait_on_conditions_and_none_is_ignored() {
    let found: Vec<String> = rust_files("tests")
        .into_iter()
        .filter(|(path, _)| !path.ends_with("style.rs"))
        .flat_map(|(path, text)| {
            text.lines()
                .enumerate()
                .filter(|(_, line)| line.contains("#[ignore"))
                .map(|(index, line)| format!("{}:{}: {}", path.display(), index + 1, line.trim()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_failpoint_is_passed_somewhere() {
    let sources: String = rust_files("src")
        .into_iter()
        .filter(|(path, _)| !path.ends_with("failpoint.rs"))
        .map(|(_, text)| text)
        .collect();
    let missing: Vec<&&str> =
        headwater::failpoint::ALL.iter().filter(|name| !sources.contains(&format!("\"{name}\""))).collect();
    assert_eq!(missing, Vec::<&&str>::new());
}

#[test]
fn the_readme_holds_the_reference_made_from_the_code() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let reference = headwater::cli::reference_markdown();
    assert!(
        readme.contains(reference.trim()),
        "README.md lacks the present reference: run `make reference`, which writes it there"
    );
}
