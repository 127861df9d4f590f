//! Where a partition can be landed on from, when some of its files are gone: decided from offsets. Pure.
//!
//! The position has to lie where every record below it is in the files that are there or nowhere any more, and
//! no record from it on is in any of them. Files that hold records which are going to be read again are set
//! aside; they are not deleted, for the broker might know less than it said. Where such a file holds older records
//! than the topic as well, it is divided before, and the older part stays.

/// A file of one partition, as far as its records are of the log that is landed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub first: i64,
    pub last: i64,
    pub rows: u64,
    pub is_there: bool,
}

/// Records that nobody can give back: of these offsets, at most so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    pub first: i64,
    pub last: i64,
    pub rows: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Support {
    /// Where to read on.
    pub next: i64,
    /// Indices of files that are in the way.
    pub aside: Vec<usize>,
    /// Of these, those that hold records which the topic has dropped: their part before its first offset stays.
    pub divided: Vec<usize>,
    pub gone: Vec<Gone>,
}

/// `next` is what the ledger said; `low` is the first offset that the topic still holds, none where it is
/// another topic by now, of which nothing can be read again.
pub fn support(next: i64, low: Option<i64>, files: &[Held]) -> Support {
    let missing = || files.iter().filter(|file| !file.is_there);
    let Some(low) = low else {
        let reach = files.iter().filter(|file| file.is_there).map(|file| file.last + 1).max();
        let gone = missing().map(|file| Gone { first: file.first, last: file.last, rows: file.rows }).collect();
        return Support { next: next.max(reach.unwrap_or(next)), gone, ..Support::default() };
    };
    let mut support = Support { next, ..Support::default() };
    for file in missing() {
        if file.last >= low {
            support.next = support.next.min(file.first.max(low));
        }
        if file.first < low {
            support.gone.push(Gone { first: file.first, last: file.last.min(low - 1), rows: file.rows });
        }
    }
    // What is below `low` is not read again, and so not in the way.
    let is_in_the_way = |file: &Held, next: i64| file.is_there && file.last >= next.max(low);
    while let Some(first) =
        files.iter().filter(|file| is_in_the_way(file, support.next)).map(|file| file.first.max(low)).min()
        && first < support.next
    {
        support.next = first;
    }
    for (index, file) in files.iter().enumerate().filter(|(_, file)| is_in_the_way(file, support.next)) {
        support.aside.push(index);
        if file.first < low {
            support.divided.push(index);
        }
    }
    support
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(first: i64, last: i64, is_there: bool) -> Held {
        Held { first, last, rows: (last - first + 1) as u64, is_there }
    }

    fn gone(first: i64, last: i64, rows: u64) -> Gone {
        Gone { first, last, rows }
    }

    #[test]
    fn everything_there_goes_on_and_what_the_ledger_does_not_know_is_set_aside() {
        let files = [held(0, 9, true), held(10, 19, true), held(20, 29, true)];
        assert_eq!(support(20, Some(0), &files), Support { next: 20, aside: vec![2], ..Support::default() });
        assert_eq!(support(30, Some(30), &files), Support { next: 30, ..Support::default() });
        assert_eq!(support(20, None, &files), Support { next: 30, ..Support::default() });
    }

    #[test]
    fn what_is_missing_is_read_again_as_far_as_the_topic_holds_it() {
        let none = [held(0, 9, false), held(10, 19, false)];
        assert_eq!(support(20, Some(0), &none).next, 0);
        assert_eq!(support(20, Some(5), &none), Support { next: 5, gone: vec![gone(0, 4, 10)], ..Support::default() });
        assert_eq!(
            support(20, Some(20), &none),
            Support { next: 20, gone: vec![gone(0, 9, 10), gone(10, 19, 10)], ..Support::default() }
        );
        assert_eq!(support(20, None, &none).gone.len(), 2);
        let some = [held(0, 9, true), held(10, 19, false), held(20, 29, true)];
        assert_eq!(support(30, Some(0), &some), Support { next: 10, aside: vec![2], ..Support::default() });
        // One that was merged reaches over what is missing of another date.
        let merged = [held(0, 29, true), held(10, 19, false)];
        assert_eq!(support(30, Some(0), &merged), Support { next: 0, aside: vec![0], ..Support::default() });
        // Its older part stays.
        assert_eq!(
            support(30, Some(4), &merged),
            Support { next: 4, aside: vec![0], divided: vec![0], ..Support::default() }
        );
    }

    proptest! {
        /// No record is in a file that stays and read again as well; none that the topic holds is in neither.
        #[test]
        fn no_record_is_read_twice_or_not_at_all(
            low in 0_i64..60,
            starts in proptest::collection::btree_set(0_i64..60, 1..12),
            there in proptest::collection::vec(any::<bool>(), 12),
            merged in 0_i64..20,
        ) {
            let mut bounds: Vec<i64> = starts.into_iter().collect();
            bounds.push(60);
            let mut files: Vec<Held> =
                bounds.windows(2).zip(&there).map(|(pair, there)| held(pair[0], pair[1] - 1, *there)).collect();
            files[0].last = (files[0].last + merged).min(59);
            let support = support(60, Some(low), &files);
            for offset in low..60 {
                let holds = |file: &Held| (file.first..=file.last).contains(&offset);
                let stays = |index: usize, file: &Held| file.is_there && !support.aside.contains(&index);
                let is_read = offset >= support.next;
                for (index, file) in files.iter().enumerate().filter(|(_, file)| holds(file)) {
                    if is_read {
                        prop_assert!(!stays(index, file), "{offset} twice");
                    } else {
                        prop_assert!(stays(index, file), "{offset} not at all");
                    }
                }
            }
        }
    }
}
