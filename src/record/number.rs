//! Numbers of JSON to whole numbers, decimals and floats: from their digits, exactly, or not at all.

/// Why a number does not become a value of its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberError {
    /// More digits before the point than the column holds.
    TooLarge,
    /// Digits after the point that the column cannot keep.
    TooPrecise,
}

/// A JSON number taken apart: `±digits × 10^exponent`, without zeros at the end of the digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Digits {
    negative: bool,
    digits: u128,
    /// How many decimal digits `digits` has; 0 for zero.
    count: u32,
    exponent: i64,
}

const POWERS: [u128; 39] = {
    let mut powers = [1; 39];
    let mut i = 1;
    while i < 39 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// Takes a valid JSON number apart. `None` where it has more than 38 significant digits.
fn take_apart(text: &[u8]) -> Option<Digits> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        text => (false, text),
    };
    let (mut digits, mut count, mut zeros, mut exponent) = (0_u128, 0_u32, 0_u32, 0_i64);
    let mut in_fraction = false;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'.' => in_fraction = true,
            b'e' | b'E' => {
                exponent = exponent.saturating_add(exponent_of(&text[at + 1..]));
                break;
            }
            digit => {
                exponent -= i64::from(in_fraction);
                if *digit == b'0' {
                    // Held back: they count only when another digit follows.
                    zeros += u32::from(count > 0);
                    continue;
                }
                let wanted = count + zeros + 1;
                if wanted > 38 {
                    return None;
                }
                digits = digits * POWERS[zeros as usize + 1] + u128::from(digit - b'0');
                (count, zeros) = (wanted, 0);
            }
        }
    }
    if count == 0 {
        exponent = 0;
    }
    Some(Digits { negative, digits, count, exponent: exponent.saturating_add(i64::from(zeros)) })
}

fn exponent_of(text: &[u8]) -> i64 {
    let (sign, text) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        text => (1, text),
    };
    let value =
        text.iter().fold(0_i64, |value, digit| value.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    // Far beyond any column, and far from overflow in what follows.
    sign * value.min(1 << 40)
}

/// A valid JSON number as the unscaled value of a `decimal(precision, scale)`.
pub fn decimal(text: &[u8], precision: u8, scale: i8) -> Result<i128, NumberError> {
    if let Some(value) = short_decimal(text, precision, scale) {
        return Ok(value);
    }
    let Some(number) = take_apart(text) else {
        return Err(too_long(text, precision, scale));
    };
    if number.count == 0 {
        return Ok(0);
    }
    let shift = number.exponent + i64::from(scale);
    if shift < 0 {
        return Err(NumberError::TooPrecise);
    }
    if i64::from(number.count) + shift > i64::from(precision) {
        return Err(NumberError::TooLarge);
    }
    let value = (number.digits * POWERS[shift as usize]) as i128;
    Ok(if number.negative { -value } else { value })
}

/// The usual case: at most 17 digits, no exponent, and room enough in the column for any of them.
fn short_decimal(text: &[u8], precision: u8, scale: i8) -> Option<i128> {
    if text.len() > 17 || scale < 0 {
        return None;
    }
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        text => (false, text),
    };
    let (mut value, mut fraction, mut in_fraction) = (0_i64, 0_usize, false);
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            value = value * 10 + i64::from(digit);
            fraction += usize::from(in_fraction);
        } else if *byte == b'.' {
            in_fraction = true;
        } else {
            return None;
        }
    }
    let shift = (scale as usize).checked_sub(fraction)?;
    let whole = digits.len() - fraction - usize::from(in_fraction);
    if whole + scale as usize > precision as usize {
        return None;
    }
    let value = i128::from(value) * POWERS[shift] as i128;
    Some(if negative { -value } else { value })
}

/// Which of the two is wrong with a number of more than 38 significant digits.
fn too_long(text: &[u8], precision: u8, scale: i8) -> NumberError {
    let whole =
        text.iter().skip_while(|byte| matches!(byte, b'-' | b'0')).take_while(|byte| byte.is_ascii_digit()).count();
    let room = i64::from(precision) - i64::from(scale);
    if whole as i64 > room { NumberError::TooLarge } else { NumberError::TooPrecise }
}

/// A valid JSON number as a whole number of 64 bits; `220.0` and `2.2e2` are 220.
pub fn whole(text: &[u8]) -> Result<i64, NumberError> {
    if text.len() <= 18 && text.iter().skip(usize::from(text[0] == b'-')).all(u8::is_ascii_digit) {
        let negative = text[0] == b'-';
        let value =
            text[usize::from(negative)..].iter().fold(0_i64, |value, digit| value * 10 + i64::from(digit - b'0'));
        return Ok(if negative { -value } else { value });
    }
    i64::try_from(decimal(text, 38, 0)?).map_err(|_| NumberError::TooLarge)
}

/// A valid JSON number as the nearest double. Infinity is no number.
pub fn float(text: &str) -> Result<f64, NumberError> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(NumberError::TooLarge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_keep_every_digit() {
        let at = |text: &str, scale| decimal(text.as_bytes(), 38, scale);
        assert_eq!(at("220.0", 18), Ok(220 * 10_i128.pow(18)));
        assert_eq!(at("220.45", 2), Ok(22_045));
        assert_eq!(at("-0.10", 2), Ok(-10));
        assert_eq!(at("-0", 2), Ok(0));
        assert_eq!(at("2.2e2", 2), Ok(22_000));
        assert_eq!(at("22000E-2", 0), Ok(220));
        assert_eq!(at("1.50000000000000000000000000000000000000000000000", 1), Ok(15));
        assert_eq!(at("99999999999999999999999999999999999999", 0), Ok(10_i128.pow(38) - 1));
        assert_eq!(at("0.00000000000000000000000000000000000001", 38), Ok(1));
        assert_eq!(at("1000", -3), Ok(1));
        assert_eq!(at("1001", -3), Err(NumberError::TooPrecise));
    }

    #[test]
    fn decimals_that_do_not_fit_say_why() {
        let at = |text: &str, precision, scale| decimal(text.as_bytes(), precision, scale);
        assert_eq!(at("1000.00", 5, 2), Err(NumberError::TooLarge));
        assert_eq!(at("0.001", 5, 2), Err(NumberError::TooPrecise));
        assert_eq!(at("999.99", 5, 2), Ok(99_999));
        assert_eq!(at(&"9".repeat(400), 38, 18), Err(NumberError::TooLarge));
        assert_eq!(at(&format!("0.{}", "9".repeat(400)), 38, 18), Err(NumberError::TooPrecise));
        assert_eq!(at(&format!("1{}", "0".repeat(400)), 38, 18), Err(NumberError::TooLarge));
        assert_eq!(at(&format!("0.{}1", "0".repeat(400)), 38, 18), Err(NumberError::TooPrecise));
        assert_eq!(at(&format!("0{}", ".0".to_owned() + &"0".repeat(400)), 38, 18), Ok(0));
        assert_eq!(at("1e99999999999999999999", 38, 18), Err(NumberError::TooLarge));
        assert_eq!(at("1e-99999999999999999999", 38, 18), Err(NumberError::TooPrecise));
        assert_eq!(at("0e99999999999999999999", 38, 18), Ok(0));
        assert_eq!(at(&format!("1{}e-400", "0".repeat(400)), 38, 18), Ok(10_i128.pow(18)));
    }

    #[test]
    fn whole_numbers() {
        assert_eq!(whole(b"220.0"), Ok(220));
        assert_eq!(whole(b"-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(whole(b"9223372036854775808"), Err(NumberError::TooLarge));
        assert_eq!(whole(b"1.5"), Err(NumberError::TooPrecise));
        assert_eq!(whole(b"-0"), Ok(0));
        assert_eq!(whole(b"1e3"), Ok(1_000));
    }

    #[test]
    fn floats() {
        assert_eq!(float("1e308"), Ok(1e308));
        assert_eq!(float("1e309"), Err(NumberError::TooLarge));
        assert_eq!(float("0.1"), Ok(0.1));
    }

    proptest! {
        #[test]
        fn a_decimal_written_out_is_read_back(value in -10_i128.pow(38) + 1..10_i128.pow(38), scale in 0_i8..=38) {
            let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale as usize + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
            let sign = if value < 0 { "-" } else { "" };
            let point = if scale > 0 { "." } else { "" };
            let text = format!("{sign}{whole}{point}{fraction}");
            prop_assert_eq!(decimal(text.as_bytes(), 38, scale), Ok(value));
            prop_assert_eq!(decimal(format!("{sign}{digits}e-{scale}").as_bytes(), 38, scale), Ok(value));
        }
    }
}
