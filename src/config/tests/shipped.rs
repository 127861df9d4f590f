//! The files in `configs/`, and the contract they come from.

use super::*;
use crate::config::{environment::variables_in, load};
use std::{collections::BTreeMap, path::PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn shipped() -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join("configs")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "yml")).collect()
}

#[test]
fn every_shipped_file_loads() {
    let files = shipped();
    assert!(files.len() >= 3);
    for file in files {
        if let Err(errors) = load(&file, &Environment::default()) {
            panic!("{errors}");
        }
    }
}

#[test]
fn the_shipped_pipeline_is_the_contract() {
    let shipped = load(&root().join("configs/orders_stream.yml"), &Environment::default()).unwrap();
    let contract = load(&root().join("tests/data/orders_stream.yml"), &Environment::default()).unwrap();
    assert_eq!(shipped, contract);
}

/// `tests/data/orders_stream.yml` is a copy, byte for byte, of a file that other programs use.
#[test]
fn the_copy_of_the_contract_is_untouched() {
    let text = std::fs::read(root().join("tests/data/orders_stream.yml")).unwrap();
    assert_eq!(xxhash_rust::xxh3::xxh3_64(&text), CONTRACT_HASH, "this file must not be edited");
}

const CONTRACT_HASH: u64 = 11_274_309_954_204_341_809;

/// Names and values of `example.env` by file; each must have a comment before it.
fn example() -> BTreeMap<String, BTreeMap<String, String>> {
    let text = std::fs::read_to_string(root().join("configs/example.env")).unwrap();
    let mut files: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let (mut file, mut previous) = ("", "");
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("# == ").and_then(|rest| rest.strip_suffix(" ==")) {
            file = name;
            assert!(files.insert(file.to_owned(), BTreeMap::new()).is_none(), "{file} stands twice");
        }
        // What is a comment to a shell and no comment to people: a variable, ready to be uncommented.
        if let Some((name, value)) =
            line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).and_then(|rest| rest.split_once('='))
        {
            assert!(previous.starts_with("# "), "{file}: {name} has no meaning given");
            let of_file = files.get_mut(file).expect("a variable stands below the name of its file");
            assert!(of_file.insert(name.to_owned(), value.to_owned()).is_none(), "{file}: {name} stands twice");
        }
        previous = line;
    }
    files
}

fn name(file: &std::path::Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn the_example_environment_lists_every_variable_with_its_default() {
    let example = example();
    for file in shipped() {
        let text = std::fs::read_to_string(&file).unwrap();
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect();
        let listed = example.get(&name(&file)).unwrap_or_else(|| panic!("{} is not in the example", file.display()));
        assert_eq!(&variables_in(&code), &listed.keys().cloned().collect(), "{}", file.display());
        for (name, default) in listed {
            assert!(code.contains(&format!("${{{name}:-{default}}}")), "{}: another default of {name}", file.display());
        }
    }
    assert_eq!(example.len(), shipped().len(), "the example names a file that is not there");
}

/// The defaults of the example are those of the files, so that copying it changes nothing.
#[test]
fn the_example_environment_changes_nothing() {
    for file in shipped() {
        let environment: Environment = example().remove(&name(&file)).unwrap().into_iter().collect();
        assert_eq!(load(&file, &environment).unwrap(), load(&file, &Environment::default()).unwrap());
    }
}

/// The variables that the platforms of the chat pipeline set.
#[test]
fn the_chat_pipeline_honours_its_environment() {
    let environment: Environment = [
        ("KAFKA_BOOTSTRAP_SERVERS", "broker:1234"),
        ("POSTGRES_URL", "jdbc:postgresql://db.example:5433/chats"),
        ("POSTGRES_USER", "someone"),
        ("POSTGRES_PASSWORD", "something"),
        ("CHECKPOINT_LOCATION", "/somewhere"),
        ("ANOMALY_THRESHOLD", "4.5"),
        ("WINDOW_DURATION", "60s"),
        ("SLIDE_DURATION", "30 seconds"),
    ]
    .into_iter()
    .collect();
    let config = load(&root().join("configs/chat.yml"), &environment).unwrap();
    let [pipeline] = config.pipelines.as_slice() else { panic!("one pipeline") };
    assert_eq!(pipeline.kafka.brokers, "broker:1234");
    let postgres = pipeline.postgres.as_ref().unwrap();
    assert_eq!((postgres.host.as_str(), postgres.port, postgres.db.as_str()), ("db.example", 5433, "chats"));
    assert_eq!((postgres.user.as_str(), postgres.password.as_ref().unwrap().reveal()), ("someone", "something"));
    let land = pipeline.land.as_ref().unwrap();
    assert!(land.tables.iter().all(|table| table.checkpoint_location.starts_with("/somewhere")));
    let [job] = pipeline.analyze.as_ref().unwrap().jobs.as_slice() else { panic!("one job") };
    assert_eq!((job.window_ms, job.slide_ms), (60_000, 30_000));
    assert!(job.anomalies.iter().all(|anomaly| anomaly.threshold == Some(4.5)));
}
