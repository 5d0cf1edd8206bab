//! Whatever stands in the configuration file, it is read without harm.

use std::fs;

use super::{Config, Flags, Place};
use crate::fuzz::fuzz_within;

/// Longest document: an operator's own, whose mistakes are each looked up by line.
const BYTES_MAX: usize = 8 << 10;

#[test]
fn documents() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.toml");
    fuzz_within("configuration", BYTES_MAX, |text| {
        fs::write(&path, text).unwrap();
        let variable =
            |name: &str| (name == "REGISTRY_CONFIG").then(|| path.clone().into_os_string());
        let errors = match Config::load(Flags::default(), variable) {
            Ok(config) => {
                // What is in effect can be said.
                let _ = (config.warnings(), format!("{config:?}"));
                return Ok(());
            }
            Err(errors) => errors,
        };
        let lines = text.iter().filter(|&&byte| byte == b'\n').count() + 1;
        for error in errors.iter() {
            if error.problem.is_empty() {
                return Err("a problem without a word".to_owned());
            }
            if let Place::File {
                line: Some(line), ..
            } = &error.place
                && !(1..=lines).contains(line)
            {
                return Err(format!("line {line} of {lines}: {}", error.problem));
            }
        }
        Ok(())
    });
}
