//! Mutations of inputs. The same seed gives the same mutations.

/// Maximum length of a mutated input, in bytes.
const MAX_INPUT: usize = 4096;

/// Byte values at the limits of lengths and counts, and characters with a meaning in addresses.
const SPECIAL_BYTES: [u8; 12] = [0, 1, 2, 0x0f, 0x10, 0x7f, 0x80, 0xfe, 0xff, b':', b'[', b'@'];

/// Makes inputs from other inputs.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// Creates the mutator of this `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns an input of `corpus` with one to four changes.
    ///
    /// # Panics
    /// If `corpus` is empty.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.random_below(corpus.len())].clone();
        for _ in 0..=self.random_below(4) {
            let other = &corpus[self.random_below(corpus.len())];
            self.change(&mut input, other);
        }
        input.truncate(MAX_INPUT);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.random_below(input.len() + 1);
        let byte = match self.random_below(2) {
            0 => SPECIAL_BYTES[self.random_below(SPECIAL_BYTES.len())],
            _ => self.random() as u8,
        };
        match self.random_below(9) {
            0 => input.insert(at, byte),
            1 => input.truncate(at),
            2 => input.extend_from_slice(&other[self.random_below(other.len() + 1)..]),
            3 => {
                input.truncate(at);
                input.extend_from_slice(&other[at.min(other.len())..]);
            }
            4 => {
                let part = input[at..].to_vec();
                input.extend(part);
            }
            5 => {
                let end = at + self.random_below(input.len() - at + 1);
                input.drain(at..end);
            }
            _ if at == input.len() => input.push(byte),
            6 => input[at] = byte,
            7 => input[at] ^= 1 << self.random_below(8),
            _ => {
                let end = input.len().min(at + 1 + self.random_below(8));
                input[at..end].fill(byte);
            }
        }
    }

    fn random_below(&mut self, end: usize) -> usize {
        (self.random() % end as u64) as usize
    }

    /// Returns a random number by SplitMix64 (Steele, Lea and Flood 2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
