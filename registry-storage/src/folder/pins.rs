//! Pins: a small file of their own, since they are what people have decided, and must not be lost
//! with the index (I10).
//!
//! One line a pin: since when, and the pin. The file is put in place of the former, durably.

use std::fs;
use std::io::{self, Write as _};
use std::sync::PoisonError;

use registry_core::{Pin, StoreError, StoreOperation, Timestamp};

use super::Folder;
use crate::layout::{found, sync_folder};

impl Folder {
    /// Records a pin, durably; whether it is new.
    pub(crate) fn put_pin(&self, pin: &Pin, since: Timestamp) -> Result<bool, StoreError> {
        let mut was_there = false;
        self.change_pins(|pins| {
            was_there = take(pins, pin);
            pins.push((pin.clone(), since));
            true
        })?;
        Ok(!was_there)
    }

    /// Removes a pin, durably; whether it was there.
    pub(crate) fn remove_pin(&self, pin: &Pin) -> Result<bool, StoreError> {
        let mut was_there = false;
        self.change_pins(|pins| {
            was_there = take(pins, pin);
            was_there
        })?;
        Ok(was_there)
    }

    /// All of them, in their order.
    pub(crate) fn pins(&self) -> Result<Vec<(Pin, Timestamp)>, StoreError> {
        let failed = |source| StoreError::io(StoreOperation::Read, source);
        let text = found(fs::read(self.layout.pins())).map_err(failed)?;
        let text = text.unwrap_or_default();
        let mut pins = Vec::new();
        for line in String::from_utf8_lossy(&text).lines() {
            match parse(line) {
                Some(pin) => pins.push(pin),
                None => tracing::warn!(line, "this line of the file of pins is no pin"),
            }
        }
        pins.sort();
        Ok(pins)
    }

    /// Writes what `change` makes of the pins, where it says that it has changed them.
    fn change_pins(
        &self,
        change: impl FnOnce(&mut Vec<(Pin, Timestamp)>) -> bool,
    ) -> Result<(), StoreError> {
        let _pinning = self.pinning.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pins = self.pins()?;
        if !change(&mut pins) {
            return Ok(());
        }
        self.write_pins(&pins)
            .map_err(|source| StoreError::io(StoreOperation::Index, source))
    }

    fn write_pins(&self, pins: &[(Pin, Timestamp)]) -> io::Result<()> {
        let mut file = self.layout.new_temporary()?;
        for (pin, since) in pins {
            writeln!(file, "{} {}", since.as_millis(), escaped(pin))?;
        }
        file.as_file().sync_all()?;
        file.persist(self.layout.pins())?;
        sync_folder(self.layout.root())
    }
}

/// Takes a pin out; whether it was there.
fn take(pins: &mut Vec<(Pin, Timestamp)>, pin: &Pin) -> bool {
    let before = pins.len();
    pins.retain(|(other, _)| other != pin);
    pins.len() < before
}

/// What a line must not hold, and what stands for it there. A pattern may hold anything.
const ESCAPES: [(&str, &str); 3] = [("%", "%25"), ("\n", "%0A"), ("\r", "%0D")];

fn escaped(pin: &Pin) -> String {
    let escape = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
    ESCAPES.iter().fold(pin.to_string(), escape)
}

fn parse(line: &str) -> Option<(Pin, Timestamp)> {
    let (since, pin) = line.split_once(' ')?;
    let since = Timestamp::from_millis(since.parse().ok()?);
    let unescape = |text: String, (to, from): &(&str, &str)| text.replace(from, to);
    let pin = ESCAPES.iter().rev().fold(pin.to_owned(), unescape);
    Some((Pin::parse(&pin).ok()?, since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_survives_its_line() {
        for text in ["x/a:1", "x/a b*", "x/%0A*", "x/a\nb*", "x/*:\r%", "x/ *"] {
            let pin = Pin::parse(text).unwrap();
            let line = format!("7 {}", escaped(&pin));
            assert_eq!(line.lines().count(), 1, "{text:?}");
            assert_eq!(parse(&line), Some((pin, Timestamp::from_millis(7))));
        }
        for line in ["", "7", "x x/a:1", "7 x"] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }
}
