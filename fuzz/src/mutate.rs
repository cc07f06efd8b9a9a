//! Damage from a seed: the same seed damages the same bytes in the same way.

/// Longest mutated input, in bytes.
const MAX_INPUT: usize = 4096;

/// Values that lengths, counts and characters may get wrong.
const TELLING: [u8; 12] = [0, 1, 2, 0x0f, 0x10, 0x7f, 0x80, 0xfe, 0xff, b':', b'[', b'@'];

/// Makes inputs from other inputs.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// Creates the damage of this `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns one of `corpus`, changed in one to four places.
    ///
    /// # Panics
    /// If `corpus` is empty.
    pub fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let other = &corpus[self.below(corpus.len())];
            self.change(&mut input, other);
        }
        input.truncate(MAX_INPUT);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len() + 1);
        let byte = match self.below(2) {
            0 => TELLING[self.below(TELLING.len())],
            _ => self.draw() as u8,
        };
        match self.below(9) {
            0 => input.insert(at, byte),
            1 => input.truncate(at),
            2 => input.extend_from_slice(&other[self.below(other.len() + 1)..]),
            3 => {
                input.truncate(at);
                input.extend_from_slice(&other[at.min(other.len())..]);
            }
            4 => {
                let part = input[at..].to_vec();
                input.extend(part);
            }
            5 => {
                let end = at + self.below(input.len() - at + 1);
                input.drain(at..end);
            }
            _ if at == input.len() => input.push(byte),
            6 => input[at] = byte,
            7 => input[at] ^= 1 << self.below(8),
            _ => {
                let end = input.len().min(at + 1 + self.below(8));
                input[at..end].fill(byte);
            }
        }
    }

    fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
