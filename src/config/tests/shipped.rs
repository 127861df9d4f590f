//! The files in `configs/`, and the contract they come from.

use super::*;
use crate::config::{environment::variables_in, load};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

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

/// Names and values of `example.env`; each must have a comment before it.
fn example() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root().join("configs/example.env")).unwrap();
    let mut variables = BTreeMap::new();
    let mut previous = "";
    for line in text.lines() {
        if let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            assert!(previous.starts_with("# "), "{name} has no meaning given");
            assert!(variables.insert(name.to_owned(), value.to_owned()).is_none(), "{name} stands twice");
        }
        previous = line;
    }
    variables
}

#[test]
fn the_example_environment_lists_every_variable_with_its_default() {
    let mut used = BTreeSet::new();
    for file in shipped() {
        let text = std::fs::read_to_string(&file).unwrap();
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect();
        let names = variables_in(&code);
        for name in &names {
            let default = &example()[name];
            assert!(code.contains(&format!("${{{name}:-{default}}}")), "{}: another default of {name}", file.display());
        }
        used.extend(names);
    }
    assert_eq!(used, example().into_keys().collect::<BTreeSet<_>>());
}

/// The defaults of the example are those of the files, so that copying it changes nothing.
#[test]
fn the_example_environment_changes_nothing() {
    let environment: Environment = example().into_iter().collect();
    for file in shipped() {
        assert_eq!(load(&file, &environment).unwrap(), load(&file, &Environment::default()).unwrap());
    }
}
