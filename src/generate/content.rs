//! What an order looks like: names, dishes and amounts, the same for the same seed.

/// xoshiro256++, seeded by splitmix64: small, quick and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut seed = seed;
        let state = std::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = seed;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        });
        Random { state }
    }

    pub fn draw(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// At least 0, below 1.
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(limit)) >> 64) as u64
    }

    /// True in this share of the calls.
    pub fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }
}

/// Zipf's law over `0..count`: few are chosen often, many seldom.
#[derive(Debug, Clone)]
struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(count: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let cumulative = (1..=count).map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        });
        Zipf { cumulative: cumulative.collect() }
    }

    fn pick(&self, random: &mut Random) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(1.0);
        let point = random.unit() * total;
        self.cumulative.partition_point(|sum| *sum <= point).min(self.cumulative.len() - 1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Placed,
    Preparing,
    Delivered,
    Cancelled,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Placed => "PLACED",
            Status::Preparing => "PREPARING",
            Status::Delivered => "DELIVERED",
            Status::Cancelled => "CANCELLED",
        }
    }
}

/// An order without its id and time.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub customer: String,
    pub restaurant: &'static str,
    pub item: &'static str,
    /// Below zero in a bad row.
    pub amount_cents: i64,
}

impl Order {
    /// `220.00`
    pub fn amount(&self) -> String {
        let sign = if self.amount_cents < 0 { "-" } else { "" };
        let cents = self.amount_cents.unsigned_abs();
        format!("{sign}{}.{:02}", cents / 100, cents % 100)
    }
}

/// An endless source of orders.
#[derive(Debug, Clone)]
pub struct Orders {
    random: Random,
    bad_share: f64,
    customers: Zipf,
    restaurants: Zipf,
    dishes: Zipf,
}

impl Orders {
    pub fn new(seed: u64, bad_share: f64) -> Self {
        Orders {
            random: Random::new(seed),
            bad_share,
            customers: Zipf::new(FIRST_NAMES.len() * LAST_NAMES.len(), 0.6),
            restaurants: Zipf::new(RESTAURANTS.len(), 0.9),
            dishes: Zipf::new(8, 0.7),
        }
    }

    pub fn order(&mut self) -> Order {
        let random = &mut self.random;
        // A step that shares no factor with the number of names, so that neighbours in rank share none.
        let customer = self.customers.pick(random) * 1_009 % (FIRST_NAMES.len() * LAST_NAMES.len());
        let (first, last) = (FIRST_NAMES[customer % FIRST_NAMES.len()], LAST_NAMES[customer / FIRST_NAMES.len()]);
        let (restaurant, kitchen) = RESTAURANTS[self.restaurants.pick(random)];
        let dishes = kitchen.dishes();
        let (item, price) = dishes[self.dishes.pick(random) % dishes.len()];
        // One portion mostly, seldom a party; each house has its own price level.
        let mut portions = 1;
        while portions < 12 && random.chance(0.3) {
            portions += 1;
        }
        let level = 90 + (restaurant.len() as i64 * 7) % 30;
        let mut amount_cents = price * portions * level / 100 * 100;
        if random.chance(0.25) {
            amount_cents += random.below(100) as i64;
        }
        if random.chance(self.bad_share) {
            amount_cents = -amount_cents;
        }
        Order { customer: format!("{first} {last}"), restaurant, item, amount_cents }
    }

    /// The state of an order placed long ago.
    pub fn past_status(&mut self) -> Status {
        match self.random.below(100) {
            0..6 => Status::Cancelled,
            6..8 => Status::Preparing,
            8..10 => Status::Placed,
            _ => Status::Delivered,
        }
    }

    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}

#[derive(Debug, Clone, Copy)]
enum Kitchen {
    Burger,
    Indian,
    Italian,
    Asian,
    Grill,
    Sweet,
}

impl Kitchen {
    /// Dishes with their price in whole units, the popular first.
    fn dishes(self) -> &'static [(&'static str, i64)] {
        match self {
            Kitchen::Burger => &[
                ("Veg Burger", 220),
                ("Cheese Burger", 260),
                ("Chicken Burger", 290),
                ("Peri Peri Fries", 140),
                ("Double Patty Burger", 380),
                ("Onion Rings", 150),
                ("Chocolate Shake", 190),
                ("Halloumi Burger", 340),
            ],
            Kitchen::Indian => &[
                ("Paneer Butter Masala", 310),
                ("Chicken Biryani", 340),
                ("Masala Dosa", 160),
                ("Butter Naan", 60),
                ("Dal Makhani", 270),
                ("Chole Bhature", 190),
                ("Rogan Josh", 420),
                ("Gulab Jamun", 110),
            ],
            Kitchen::Italian => &[
                ("Margherita Pizza", 350),
                ("Pasta Arrabbiata", 330),
                ("Pizza Quattro Formaggi", 460),
                ("Garlic Bread", 160),
                ("Lasagne", 420),
                ("Tiramisù", 250),
                ("Gnocchi al Pesto", 390),
                ("Risotto ai Funghi", 440),
            ],
            Kitchen::Asian => &[
                ("Hakka Noodles", 240),
                ("Veg Momos", 160),
                ("Pad Thai", 360),
                ("Salmon Nigiri", 520),
                ("Phở Bò", 380),
                ("Kung Pao Chicken", 370),
                ("Miso Ramen", 430),
                ("Spring Rolls", 180),
            ],
            Kitchen::Grill => &[
                ("Chicken Shawarma", 210),
                ("Falafel Wrap", 190),
                ("Mixed Grill", 680),
                ("Seekh Kebab", 320),
                ("Hummus & Pita", 230),
                ("Lamb Chops", 790),
                ("Tandoori Chicken", 450),
                ("Fattoush", 240),
            ],
            Kitchen::Sweet => &[
                ("Cold Coffee", 150),
                ("Brownie Sundae", 230),
                ("Blueberry Cheesecake", 280),
                ("Masala Chai", 60),
                ("Croissant", 140),
                ("Crème Brûlée", 290),
                ("Mango Lassi", 120),
                ("Waffle \"Classic\"", 260),
            ],
        }
    }
}

const RESTAURANTS: &[(&str, Kitchen)] = &[
    ("Burger Junction", Kitchen::Burger),
    ("Spice Route", Kitchen::Indian),
    ("Pizza Piazza", Kitchen::Italian),
    ("Biryani House", Kitchen::Indian),
    ("Wok & Roll", Kitchen::Asian),
    ("Kebab Corner", Kitchen::Grill),
    ("Chai Point Café", Kitchen::Sweet),
    ("Udupi Palace", Kitchen::Indian),
    ("Patty Republic", Kitchen::Burger),
    ("Noodle Bar", Kitchen::Asian),
    ("Trattoria Lucia", Kitchen::Italian),
    ("Tandoor Nights", Kitchen::Grill),
    ("Momo Station", Kitchen::Asian),
    ("The Waffle Works", Kitchen::Sweet),
    ("Punjab Grill", Kitchen::Grill),
    ("Sakura Sushi", Kitchen::Asian),
    ("Mama's Oven", Kitchen::Italian),
    ("Smoke & Bun", Kitchen::Burger),
    ("Saravana's", Kitchen::Indian),
    ("Levant Table", Kitchen::Grill),
    ("Phở 24", Kitchen::Asian),
    ("Crème de la Crème", Kitchen::Sweet),
    ("Coastal Curry", Kitchen::Indian),
    ("Bombay Bites", Kitchen::Indian),
];

const FIRST_NAMES: &[&str] = &[
    "Aarav", "Priya", "John", "Fatima", "Rohan", "Ananya", "Maria", "Arjun", "Sneha", "Wei", "Kavya", "David",
    "Ishaan", "Meera", "Ahmed", "Lakshmi", "Vikram", "Emma", "Nikhil", "Divya", "José", "Sanjay", "Pooja", "Olga",
    "Rahul", "Nisha", "Thomas", "Aditi", "Karthik", "Zoë", "Manish", "Ritu", "Siobhán", "Deepak", "Tara", "Yusuf",
    "Neha", "Suresh", "Léa", "Varun",
];

const LAST_NAMES: &[&str] = &[
    "Sharma",
    "Patel",
    "Doe",
    "Khan",
    "Iyer",
    "Reddy",
    "Garcia",
    "Singh",
    "Nair",
    "Chen",
    "Gupta",
    "Smith",
    "Das",
    "Mehta",
    "Hussain",
    "Rao",
    "Kapoor",
    "Müller",
    "Joshi",
    "Menon",
    "O'Brien",
    "Bose",
    "Verma",
    "Ivanova",
    "Kulkarni",
    "Pillai",
    "Nguyễn",
    "Malhotra",
    "D'Souza",
    "Banerjee",
    "Jansen",
    "Chopra",
    "Mishra",
    "Fernandes",
    "Bhatt",
    "Ali",
    "Saxena",
    "Novák",
    "Desai",
    "Thakur",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_same_seed_gives_the_same_orders() {
        let take = |seed| {
            let mut orders = Orders::new(seed, 0.1);
            (0..100).map(|_| orders.order()).collect::<Vec<_>>()
        };
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
    }

    #[test]
    fn the_share_of_bad_rows_is_kept_and_amounts_are_plausible() {
        let mut orders = Orders::new(1, 0.02);
        let sample: Vec<Order> = (0..50_000).map(|_| orders.order()).collect();
        let bad = sample.iter().filter(|order| order.amount_cents < 0).count();
        assert!((700..1_300).contains(&bad), "{bad}");
        assert!(sample.iter().all(|order| (5_000..1_500_000).contains(&order.amount_cents.abs())));
    }

    #[test]
    fn few_restaurants_have_many_orders_and_none_has_none() {
        let mut orders = Orders::new(1, 0.0);
        let mut counts: HashMap<&str, u32> = HashMap::new();
        for _ in 0..50_000 {
            *counts.entry(orders.order().restaurant).or_default() += 1;
        }
        assert_eq!(counts.len(), RESTAURANTS.len());
        assert!(counts["Burger Junction"] > 5 * counts["Bombay Bites"]);
    }

    #[test]
    fn amounts_keep_two_digits() {
        let order = |amount_cents| Order { customer: String::new(), restaurant: "", item: "", amount_cents }.amount();
        assert_eq!((order(22_000), order(-5), order(101)), ("220.00".into(), "-0.05".into(), "1.01".into()));
    }
}
