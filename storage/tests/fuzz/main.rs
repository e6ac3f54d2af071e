//! Recovery of journals from a seed: folders that were written by a journal, damaged in any way, and opened again. See
//! `fuzz/README.md`; `folder.rs` says what must hold.

#[path = "../../../fuzz/driver.rs"]
mod driver;
mod folder;
mod writing;

use driver::{Dice, spoil};
use folder::{BLOCK_BYTES, Bench, Folder, Segment};

fn bench() -> Bench {
    let corpus = driver::corpus("journal");
    let bench = Bench::new(corpus.iter().map(|(_, input)| &input[..]));
    assert!(bench.originals.len() >= 3, "the corpus has whole journals to damage");
    bench
}

#[test]
fn the_corpus_of_journals_holds() {
    let bench = bench();
    driver::replay("journal", |input| bench.check(input));
}

#[test]
fn fuzz_journal_recovery() {
    let bench = bench();
    driver::run("journal", 30, damaged_folder, |input| bench.check(input));
}

#[test]
#[ignore = "writes the whole journals of fuzz/corpus/journal anew"]
fn write_the_corpus_of_journals() {
    writing::write_corpus(&driver::corpus_folder("journal"));
}

#[test]
fn a_record_left_out_or_changed_is_seen_by_the_check() {
    let bench = bench();
    // The last commit's checksum made right after a change: what recovery accepts is not what was written.
    let mut changed = bench.originals[0].folder.clone();
    let segment = changed.segments.iter_mut().rfind(|segment| segment.bytes.len() > 2 * BLOCK_BYTES).unwrap();
    segment.bytes[BLOCK_BYTES + 64 + 12] ^= 1;
    make_right(&mut segment.bytes);
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.check(&changed.to_bytes())));
    assert!(seen.is_err());
    changed.forged = true;
    bench.check(&changed.to_bytes());
}

/// A folder of the corpus with its segments damaged, exchanged, lost or invented.
fn damaged_folder(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut folder = Folder::parse(&corpus[dice.below(corpus.len())]);
    let other = Folder::parse(&corpus[dice.below(corpus.len())]);
    for _ in 0..=dice.below(3) {
        if folder.segments.is_empty() || dice.one_in(6) {
            rearrange(dice, &mut folder, &other);
        } else {
            let at = dice.below(folder.segments.len());
            let piece = dice.pick(&folder.segments).clone();
            damage(dice, &mut folder.segments[at].bytes, &piece.bytes, corpus);
        }
    }
    if folder.forged || dice.one_in(3) {
        folder.forged = true;
        folder.segments.iter_mut().for_each(|segment| make_right(&mut segment.bytes));
    }
    folder.to_bytes()
}

fn rearrange(dice: &mut Dice, folder: &mut Folder, other: &Folder) {
    if folder.segments.is_empty() || dice.one_in(5) {
        folder.segments.extend(other.segments.first().cloned());
        return;
    }
    let count = folder.segments.len();
    let (at, with) = (dice.below(count), dice.below(count));
    match dice.below(5) {
        0 => drop(folder.segments.remove(at)),
        1 => {
            let bytes = folder.segments[at].bytes.clone();
            folder.segments.push(Segment { number: dice.below(6) as u32, bytes });
        }
        2 => folder.segments[at].number = dice.below(6) as u32,
        3 => {
            let (first, second) = (folder.segments[at].bytes.clone(), folder.segments[with].bytes.clone());
            (folder.segments[at].bytes, folder.segments[with].bytes) = (second, first);
        }
        _ => folder.segments.extend(other.segments.get(with).cloned()),
    }
}

/// Damage to one file: bytes anywhere, whole blocks, what lies elsewhere, a lost end, and the fields of headers.
fn damage(dice: &mut Dice, bytes: &mut Vec<u8>, piece: &[u8], corpus: &[Vec<u8>]) {
    let blocks = bytes.len() / BLOCK_BYTES;
    let block = dice.below(blocks) * BLOCK_BYTES;
    match dice.below(9) {
        0 => bytes.truncate(dice.below(bytes.len() + 1)),
        1 => bytes.truncate(block),
        2 if blocks > 0 => bytes[block..].fill(0),
        3 if blocks > 0 => bytes[block..block + BLOCK_BYTES].fill(0),
        4 if piece.len() >= BLOCK_BYTES => {
            let from = dice.below(piece.len() / BLOCK_BYTES) * BLOCK_BYTES;
            let copy = &piece[from..from + BLOCK_BYTES];
            let end = if dice.one_in(2) { block } else { (block + BLOCK_BYTES).min(bytes.len()) };
            bytes.splice(block.min(bytes.len())..end.max(block.min(bytes.len())), copy.iter().copied());
        }
        5 | 6 if blocks > 0 => {
            // The fields of a header.
            let mut header = bytes[block..block + 128].to_vec();
            spoil(dice, &mut header, 2, corpus, &[]);
            header.resize(128, 0);
            bytes[block..block + 128].copy_from_slice(&header);
        }
        7 => {
            let range = dice.range(bytes.len(), 300);
            bytes[range].fill_with(|| dice.roll() as u8);
        }
        _ => {
            let at = dice.below(bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
    }
}

/// Makes the checksums of everything that looks like a header right, and those of the records in it.
fn make_right(bytes: &mut [u8]) {
    if bytes.len() < BLOCK_BYTES {
        return;
    }
    bytes[12..16].fill(0);
    let crc = crc32c::crc32c(&bytes[..128]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    for at in (BLOCK_BYTES..bytes.len().saturating_sub(64)).step_by(BLOCK_BYTES) {
        if &bytes[at..at + 4] != b"MHCM" {
            continue;
        }
        let length = u32::from_le_bytes(std::array::from_fn(|index| bytes[at + 52 + index])) as usize;
        let end = (at + 64 + length).min(bytes.len());
        records_right(&mut bytes[at + 64..end]);
        let crc = crc32c::crc32c(&bytes[at + 8..end]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    }
}

fn records_right(mut bytes: &mut [u8]) {
    while bytes.len() >= 12 {
        let length = u32::from_le_bytes(std::array::from_fn(|index| bytes[index])) as usize;
        let end = (12 + length).min(bytes.len());
        let crc = crc32c::crc32c(&bytes[8..end]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes = &mut bytes[end..];
    }
}
