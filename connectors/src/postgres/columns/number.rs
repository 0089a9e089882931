//! Decimal numbers of any length as text, within what `numeric` can hold.

/// `numeric` holds up to this many digits before the point …
const MAX_INTEGER_DIGITS: usize = 131_072;
/// … and this many after it.
const MAX_SCALE: usize = 16_383;
/// Two's complement bytes that are longer cannot fit.
const MAX_BYTES: usize = 61_500;

const TOO_LONG: &str = "a number has more digits than numeric can hold";

/// The number `unscaled * 10^-scale`, where `unscaled` is big-endian two's complement.
pub(crate) fn decimal(unscaled: &[u8], scale: usize) -> Result<String, &'static str> {
    if unscaled.len() > MAX_BYTES {
        return Err(TOO_LONG);
    }
    plain(&integer(unscaled), i64::try_from(scale).map_err(|_| TOO_LONG)?)
}

/// The number `integer * 10^-scale` without an exponent; `integer` is decimal digits with an optional minus.
pub(crate) fn plain(integer: &str, scale: i64) -> Result<String, &'static str> {
    let (sign, digits) = integer.strip_prefix('-').map_or(("", integer), |digits| ("-", digits));
    let Ok(scale) = usize::try_from(scale) else {
        let zeros = usize::try_from(scale.unsigned_abs()).map_err(|_| TOO_LONG)?;
        if zeros.saturating_add(digits.len()) > MAX_INTEGER_DIGITS {
            return Err(TOO_LONG);
        }
        return Ok(if digits == "0" { digits.to_owned() } else { format!("{sign}{digits}{}", "0".repeat(zeros)) });
    };
    if scale > MAX_SCALE || digits.len().saturating_sub(scale) > MAX_INTEGER_DIGITS {
        return Err(TOO_LONG);
    }
    if scale == 0 {
        return Ok(integer.to_owned());
    }
    // At least one digit stands before the point.
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    Ok(format!("{sign}{whole}.{fraction}"))
}

/// How many digits stand before the point, leading zeros left out.
pub(crate) fn integer_digits(number: &str) -> usize {
    let whole = number.split('.').next().unwrap_or_default();
    whole.trim_start_matches(['-', '0']).len()
}

/// The one text of all that mean the same number: what a key is compared by.
pub(crate) fn canonical(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if whole.is_empty() && fraction.is_empty() { "0".to_owned() } else { format!("{sign}{whole}.{fraction}") }
}

/// Whether the text is a plain decimal number, and one that `numeric` can hold.
pub(crate) fn is_plain(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits =
        |part: &str, most| !part.is_empty() && part.len() <= most && part.bytes().all(|b| b.is_ascii_digit());
    all_digits(whole, MAX_INTEGER_DIGITS) && all_digits(fraction, MAX_SCALE)
}

/// Big-endian two's complement as decimal digits.
fn integer(bytes: &[u8]) -> String {
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    if bytes.len() <= 16 {
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        wide[16 - bytes.len()..].copy_from_slice(bytes);
        return i128::from_be_bytes(wide).to_string();
    }
    let mut magnitude = bytes.to_vec();
    if negative {
        negate(&mut magnitude);
    }
    let digits = digits(&magnitude);
    if negative { format!("-{digits}") } else { digits }
}

/// Two's complement in place, big-endian.
fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes.iter_mut().rev() {
        let (sum, overflow) = (!*byte).overflowing_add(u8::from(carry));
        *byte = sum;
        carry = overflow;
    }
}

/// An unsigned big-endian number in decimal, by base 10^9: quadratic, so the length was bounded before.
fn digits(magnitude: &[u8]) -> String {
    const BASE: u64 = 1_000_000_000;
    let mut limbs: Vec<u32> = Vec::new();
    for chunk in magnitude.rchunks(4).rev() {
        let shift = 8 * chunk.len();
        let mut carry = chunk.iter().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
        for limb in &mut limbs {
            let value = (u64::from(*limb) << shift) + carry;
            *limb = u32::try_from(value % BASE).unwrap_or_default();
            carry = value / BASE;
        }
        while carry > 0 {
            limbs.push(u32::try_from(carry % BASE).unwrap_or_default());
            carry /= BASE;
        }
    }
    let mut limbs = limbs.iter().rev();
    let first = limbs.next().map_or_else(|| "0".to_owned(), ToString::to_string);
    limbs.fold(first, |text, limb| text + &format!("{limb:09}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Red when the sign, the padding or the point is off by one.
    #[test]
    fn the_point_is_put_where_the_scale_says() {
        assert_eq!(decimal(&[0x30, 0x39], 2).unwrap(), "123.45");
        assert_eq!(decimal(&[0xff], 2).unwrap(), "-0.01");
        assert_eq!(decimal(&[], 2).unwrap(), "0.00");
        assert_eq!(decimal(&[7], 0).unwrap(), "7");
        assert_eq!(plain("12", -3).unwrap(), "12000");
        assert!(plain("1", -200_000).is_err());
        assert!(plain("1", 16_384).is_err());
        assert!(plain("0", i64::MIN).is_err());
        assert!(decimal(&vec![0x7f; 70_000], 0).is_err());
        assert_eq!(integer_digits("-00120.5"), 3);
        assert_eq!(integer_digits("0.5"), 0);
        for same in [["1.500", "1.5"], ["100", "0100.0"], ["-0.00", "0"], ["-0.5", "-00.50"]] {
            assert_eq!(canonical(same[0]), canonical(same[1]), "{same:?}");
        }
        for other in [["1", "10"], ["1.5", "-1.5"], ["0.1", "1"], ["1.05", "1.5"]] {
            assert_ne!(canonical(other[0]), canonical(other[1]), "{other:?}");
        }
        assert!(is_plain("-12.5") && is_plain("0") && !is_plain("") && !is_plain("1e5") && !is_plain("."));
    }

    proptest! {
        /// Red when the long path loses a carry or a zero: it must agree with `i128` on numbers that both can read.
        #[test]
        fn the_long_path_agrees_with_the_short_one(number: i128) {
            let mut long = vec![if number < 0 { 0xff } else { 0 }; 5];
            long.extend_from_slice(&number.to_be_bytes());
            prop_assert_eq!(integer(&long), number.to_string());
        }
    }
}
