//! A ledger that a crash has torn, that the disk has damaged, or that a newer program has written.

use super::{Pair, landed_ids, write};
use crate::harness::{DEADLINE, Test, run::Exit};
use crate::landing;
use std::fs;

/// A table of two partitions with several commits each, and nobody running.
fn landed_and_stopped() -> Pair {
    let test = Test::new();
    let base = test.path("base");
    let pair = Pair::new(test, &base, 2);
    let mut run = pair.start(&[]);
    for round in 0..4 {
        write(&pair.test, &pair.failing, 0, round * 20..round * 20 + 10);
        write(&pair.test, &pair.failing, 1, round * 20 + 10..round * 20 + 20);
        landing::wait_for_landed(&pair.failing, usize::try_from(round + 1).expect("small") * 20);
    }
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));
    pair
}

#[test]
fn a_damaged_ledger_stops_its_partition_alone() {
    let pair = landed_and_stopped();
    let ledger = pair.failing.ledger(0);
    let sound = fs::read(&ledger).expect("the ledger");
    // Within the first record, with others behind it.
    let mut damaged = sound.clone();
    damaged[40] ^= 0x10;
    fs::write(&ledger, &damaged).expect("the damage");

    let mut run = pair.start(&[]);
    let reason = pair.wait_for_trouble(&run);
    assert!(reason.contains(&ledger.display().to_string()) && reason.contains("damaged"), "{reason}");
    assert_eq!(landing::state(&run, &pair.failing.topic), "stopped", "time does not cure it");
    pair.assert_other_goes_on();
    pair.write(80..90);
    write(&pair.test, &pair.failing, 1, 90..100);
    landing::wait_for_landed(&pair.failing, 90);
    run.terminate();
    run.wait(DEADLINE);
    assert_eq!(fs::read(&ledger).expect("the ledger"), damaged, "it is left as it is");
    assert_eq!(landed_ids(&pair.failing), (0..80).chain(90..100).collect::<Vec<_>>());

    fs::write(&ledger, &sound).expect("the backup");
    let mut run = pair.start(&[]);
    landing::wait_for_landed(&pair.failing, 100);
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));
    pair.failing.assert_exactly(&landing::written(&pair.test, &pair.failing.topic));
}

#[test]
fn a_torn_end_of_the_ledger_is_cut_off() {
    let pair = landed_and_stopped();
    let tears: [fn(&mut Vec<u8>); 4] = [
        // A crash in the middle of "done": the commit before it stands.
        |bytes| bytes.truncate(bytes.len() - 3),
        |bytes| bytes.extend(b"HWR\n\x40\0\0\0\x01\x02"),
        |bytes| bytes.extend([0; 4096]),
        |bytes| bytes.extend([0xff; 5]),
    ];
    let mut landed = 80;
    for tear in tears {
        let ledger = pair.failing.ledger(0);
        let mut bytes = fs::read(&ledger).expect("the ledger");
        tear(&mut bytes);
        fs::write(&ledger, bytes).expect("the tear");
        let mut run = pair.start(&[]);
        pair.write(landed..landed + 20);
        landed += 20;
        landing::wait_for_landed(&pair.failing, usize::try_from(landed).expect("a count"));
        run.terminate();
        assert_eq!(run.wait(DEADLINE), Exit::Code(0));
        pair.failing.assert_exactly(&landing::written(&pair.test, &pair.failing.topic));
    }
}

#[test]
fn a_ledger_of_a_newer_program_is_refused() {
    let pair = landed_and_stopped();
    let ledger = pair.failing.ledger(0);
    let mut bytes = fs::read(&ledger).expect("the ledger");
    // "HWLEDGER", version, checksum of both.
    assert_eq!(&bytes[..8], b"HWLEDGER");
    bytes[8..12].copy_from_slice(&99_u32.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&ledger, &bytes).expect("the newer ledger");
    pair.write(80..90);
    let run = pair.start(&[]);
    let reason = pair.wait_for_trouble(&run);
    assert!(
        reason.contains("99") && reason.contains("newer") && reason.contains(&ledger.display().to_string()),
        "{reason}"
    );
    assert_eq!(landing::state(&run, &pair.failing.topic), "stopped", "time does not cure it");
    pair.assert_other_goes_on();
    assert_eq!(fs::read(&ledger).expect("the ledger"), bytes, "it is left as it is");
    assert_eq!(pair.failing.landed(), 80);
}

#[test]
fn a_lost_ledger_beside_its_files_is_not_begun_anew() {
    let pair = landed_and_stopped();
    let ledger = pair.failing.ledger(0);
    let sound = fs::read(&ledger).expect("the ledger");
    fs::remove_file(&ledger).expect("it goes");
    let mut run = pair.start(&[]);
    let reason = pair.wait_for_trouble(&run);
    assert!(reason.contains(&ledger.display().to_string()), "{reason}");
    pair.assert_other_goes_on();
    run.terminate();
    run.wait(DEADLINE);
    assert_eq!(pair.failing.landed(), 80, "nothing is doubled");
    fs::write(&ledger, sound).expect("the backup");
    pair.write(80..90);
    let mut run = pair.start(&[]);
    landing::wait_for_landed(&pair.failing, 90);
    run.terminate();
    assert_eq!(run.wait(DEADLINE), Exit::Code(0));
    pair.failing.assert_exactly(&landing::written(&pair.test, &pair.failing.topic));
}
