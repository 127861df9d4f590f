//! A ring of window values for each of very many keys: every value takes one, two or four bytes.
//!
//! Most measures of most keys are small counts. A ring begins with a byte a value, and is widened to two and then
//! to four when a value comes that does not fit exactly, so that 100,000 quiet streams cost a quarter of what busy
//! ones would. Widths lose nothing against `f32`, the widest; which one a ring has is never seen outside.

/// The values of one ring, `None` where a window has none.
#[derive(Debug, Clone, PartialEq)]
enum Cells {
    Bytes(Box<[u8]>),
    Words(Box<[u16]>),
    Floats(Box<[f32]>),
}

impl Cells {
    fn new(length: usize) -> Cells {
        Cells::Bytes(vec![u8::MAX; length].into())
    }

    fn len(&self) -> usize {
        match self {
            Cells::Bytes(cells) => cells.len(),
            Cells::Words(cells) => cells.len(),
            Cells::Floats(cells) => cells.len(),
        }
    }

    fn get(&self, slot: usize) -> Option<f32> {
        match self {
            Cells::Bytes(cells) => (cells[slot] != u8::MAX).then(|| f32::from(cells[slot])),
            Cells::Words(cells) => (cells[slot] != u16::MAX).then(|| f32::from(cells[slot])),
            Cells::Floats(cells) => (!cells[slot].is_nan()).then(|| cells[slot]),
        }
    }

    fn set(&mut self, slot: usize, value: Option<f32>) {
        loop {
            match (&mut *self, value) {
                (Cells::Bytes(cells), None) => cells[slot] = u8::MAX,
                (Cells::Words(cells), None) => cells[slot] = u16::MAX,
                (Cells::Floats(cells), None) => cells[slot] = f32::NAN,
                (Cells::Bytes(cells), Some(value)) if is_below(value, u8::MAX.into()) => cells[slot] = value as u8,
                (Cells::Words(cells), Some(value)) if is_below(value, u16::MAX.into()) => cells[slot] = value as u16,
                (Cells::Floats(cells), Some(value)) => cells[slot] = value,
                _ => {
                    self.widen();
                    continue;
                }
            }
            return;
        }
    }

    fn widen(&mut self) {
        let values = (0..self.len()).map(|slot| self.get(slot));
        *self = match self {
            Cells::Bytes(_) => Cells::Words(values.map(|value| value.map_or(u16::MAX, |value| value as u16)).collect()),
            _ => Cells::Floats(values.map(|value| value.unwrap_or(f32::NAN)).collect()),
        };
    }
}

/// Whether the value is a whole number from 0 to below `end`. Zero's sign is lost, which no score sees.
fn is_below(value: f32, end: f32) -> bool {
    value >= 0.0 && value < end && value.fract() == 0.0
}

const NOTHING: i64 = i64::MIN;

/// The values at the last `length` indices up to the newest. Indices count windows (or periods) since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct Ring {
    /// `NOTHING` before the first value: an `Option` would take eight bytes more for each key.
    newest: i64,
    cells: Cells,
}

impl Ring {
    pub fn new(length: usize) -> Ring {
        Ring { newest: NOTHING, cells: Cells::new(length.max(1)) }
    }

    pub fn newest(&self) -> Option<i64> {
        (self.newest != NOTHING).then_some(self.newest)
    }

    fn slot(&self, index: i64) -> usize {
        index.rem_euclid(self.cells.len() as i64) as usize
    }

    fn holds(&self, index: i64) -> bool {
        self.newest().is_some_and(|newest| index <= newest && newest - index < self.cells.len() as i64)
    }

    /// The value at `index`; `None` also where the ring does not reach.
    pub fn get(&self, index: i64) -> Option<f32> {
        if self.holds(index) { self.cells.get(self.slot(index)) } else { None }
    }

    /// Sets a value: a later index than any before moves the ring on, an index it has left behind changes nothing.
    pub fn set(&mut self, index: i64, value: Option<f32>) {
        let length = self.cells.len() as i64;
        match self.newest() {
            Some(newest) if index <= newest => {
                if !self.holds(index) {
                    return;
                }
            }
            Some(newest) => {
                for passed in (newest + 1).max(index - length + 1)..index {
                    let slot = self.slot(passed);
                    self.cells.set(slot, None);
                }
                self.newest = index;
            }
            None => self.newest = index,
        }
        let slot = self.slot(index);
        self.cells.set(slot, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn value() -> impl Strategy<Value = Option<f32>> {
        prop_oneof![
            Just(None),
            (0u32..300).prop_map(|value| Some(value as f32)),
            (65_000u32..66_000).prop_map(|value| Some(value as f32)),
            (-1e6f32..1e9).prop_map(Some),
        ]
    }

    proptest! {
        #[test]
        fn holds_what_a_map_of_the_last_indices_holds(
            length in 1usize..20,
            steps in prop::collection::vec((-5i64..30, value()), 0..60),
        ) {
            let mut ring = Ring::new(length);
            let mut map = BTreeMap::new();
            let mut newest = None;
            for (step, value) in steps {
                let index = newest.unwrap_or(-40) + step;
                let latest = newest.unwrap_or(index).max(index);
                ring.set(index, value);
                map.insert(index, value);
                newest = Some(latest);
                for index in latest - 40..latest + 3 {
                    let is_within = latest - index < length as i64;
                    let expected = if is_within { map.get(&index).copied().flatten() } else { None };
                    prop_assert_eq!(ring.get(index), expected, "index {}", index);
                }
            }
        }
    }

    #[test]
    fn small_counts_take_a_byte_each() {
        let mut ring = Ring::new(60);
        ring.set(1, Some(254.0));
        assert!(matches!(ring.cells, Cells::Bytes(_)));
        ring.set(2, Some(255.0));
        assert!(matches!(ring.cells, Cells::Words(_)));
        ring.set(3, Some(0.5));
        assert!(matches!(ring.cells, Cells::Floats(_)));
        assert_eq!([1, 2, 3, 4].map(|index| ring.get(index)), [Some(254.0), Some(255.0), Some(0.5), None]);
    }
}
