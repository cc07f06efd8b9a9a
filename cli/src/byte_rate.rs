//! Rates on the command line, in bytes a second.

/// The valid forms of a rate, for errors.
const FORMS: &str = "a rate is bytes a second: 500000, 500k, 1.5M, 64KiB, 2MiB; 0 for no limit";

/// Units with their sizes in bytes: powers of 1000, as for network links, and of 1024, as for files.
const UNITS: &[(&str, f64)] = &[
    ("", 1.0),
    ("b", 1.0),
    ("k", 1e3),
    ("kb", 1e3),
    ("m", 1e6),
    ("mb", 1e6),
    ("g", 1e9),
    ("gb", 1e9),
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
];

/// Reads a rate: a number, which may have a fraction, and a unit in upper or lower case.
///
/// # Errors
/// If the text has another form, or is neither 0 nor at least one byte a second.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix("/s").unwrap_or(&unit);
    let size = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size);
    let number = number.parse::<f64>().ok().filter(|_| number.starts_with(|c| c != '.'));
    let (Some(number), Some(size)) = (number, size) else {
        return Err(FORMS.to_owned());
    };
    let bytes = number * size;
    if bytes != 0.0 && bytes < 1.0 {
        return Err(format!("that is less than a byte a second: {FORMS}"));
    }
    // The cast saturates: a larger rate becomes the maximum of u64, which is no limit in practice.
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_and_without_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("500000", 500_000),
            ("500k", 500_000),
            ("500K", 500_000),
            ("1.5M", 1_500_000),
            ("2G", 2_000_000_000),
            ("10MB/s", 10_000_000),
            ("64KiB", 65_536),
            ("64 kib", 65_536),
            ("2MiB", 2 << 20),
            ("1GiB", 1 << 30),
            ("0.5KiB", 512),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn an_invalid_rate_is_an_error_with_valid_examples() {
        for text in ["", "k", "-1", "1T", "1.2.3k", "1e6", "ten", ".5k", "1 k b", "inf", "NaN"] {
            assert!(parse(text).unwrap_err().contains("64KiB"), "{text}");
        }
        assert!(parse("0.1").unwrap_err().contains("less than a byte"));
    }
}
