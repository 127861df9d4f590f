//! Seeded order messages for the landing bench, one in a thousand bad.

const FIRST: [&str; 8] = ["John", "Asha", "Maria", "Wei", "Omar", "Lena", "Ravi", "Zoë"];
const LAST: [&str; 7] = ["Doe", "Patel", "Garcia", "Chen", "Haddad", "Schmidt", "Iyer"];
const RESTAURANT: [&str; 6] =
    ["Burger Junction", "Pizza Palace", "Curry House", "Sushi Corner", "Taco Town", "Café \\\"Sol\\\""];
const ITEM: [&str; 6] = ["Veg Burger", "Margherita Pizza", "Paneer Tikka", "Salmon Roll", "Beef Taco", "Ramen"];
const STATUS: [&str; 4] = ["PLACED", "PREPARING", "DELIVERED", "CANCELLED"];
const DAYS: u64 = 30;

/// The finaliser of splitmix64: a well-mixed function of a counter.
fn mix(index: u64) -> u64 {
    let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x2025_0115);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `count` messages (key, value) over 30 days in order, jittered by two minutes.
pub fn messages(count: u64) -> impl Iterator<Item = (String, String)> {
    (0..count).map(move |index| {
        let r = mix(index);
        let id = 101 + index;
        let second = (index * DAYS * 86_400 / count).saturating_sub(r % 120);
        let (day, second) = (second / 86_400 + 1, second % 86_400);
        let cents = 500 + (r >> 8) % 29_500;
        let pick = |choices: &[&'static str], shift: u32| choices[(r >> shift) as usize % choices.len()];
        let (order_id, sign) = match index % 1000 {
            500 if index % 2000 == 500 => ("null".to_owned(), ""),
            500 => (id.to_string(), "-"),
            _ => (id.to_string(), ""),
        };
        let value = format!(
            "{{\"order_id\":{order_id},\"customer_name\":\"{} {}\",\"restaurant_name\":\"{}\",\"item\":\"{}\",\"amount\":{sign}{}.{:02},\"order_status\":\"{}\",\"created_at\":\"2025-01-{day:02}T{:02}:{:02}:{:02}Z\"}}",
            pick(&FIRST, 3), pick(&LAST, 11), pick(&RESTAURANT, 19), pick(&ITEM, 27), cents / 100, cents % 100, pick(&STATUS, 35),
            second / 3600, second / 60 % 60, second % 60,
        );
        (id.to_string(), value)
    })
}
