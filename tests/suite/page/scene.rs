//! Orders and a chat in one process, with people who order, people who chat, and some who write nonsense.

use crate::harness::{Run, Test};
use headwater::generate::chat::{CHAT_TOPIC, VIEWER_TOPIC};

const CHAT: &str = include_str!("../../../configs/chat.yml");
const TABLE: &str = include_str!("../../../db/source/orders.sql");

pub struct Scene {
    pub run: Run,
    _people: [Run; 2],
    // Last, for its directory goes with it.
    pub test: Test,
}

impl Scene {
    /// The pipeline of `configs/chat.yml`, to which orders are added; it runs, and something happens.
    /// `is_alone`: nobody else is on the broker, so that names may be as people would choose them.
    pub fn start(is_alone: bool) -> Scene {
        let test = Test::new();
        let name = |name: &str| if is_alone { name.to_owned() } else { test.topic(name) };
        let (pipeline, orders, chat, viewer) = (name("shop"), name("orders"), name("chat"), name("viewers"));
        let dir = test.dir().display();
        let landed = format!(
            "land:\n  rotate_ms: 5000\n  tables:\n    - topic: {orders}\n      path: {dir}/lake/orders\n      \
             date_column: created_at\n      not_null: [order_id]\n      non_negative: [amount]\n"
        );
        let schemas = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/schemas/");
        let text = CHAT
            .replace("pipeline: chat\n", &format!("pipeline: {pipeline}\n"))
            .replace("land:\n  rotate_ms: 60000\n  tables:\n", &landed)
            .replace("schema_file: schemas/", &format!("schema_file: {schemas}"))
            .replace(&format!("topic: {CHAT_TOPIC}\n"), &format!("topic: {chat}\n"))
            .replace(&format!("topic: {VIEWER_TOPIC}\n"), &format!("topic: {viewer}\n"));
        assert!(text.contains(&landed) && !text.contains(CHAT_TOPIC), "the shipped file has changed: {text}");
        let text = format!(
            "{text}\ncapture:\n  tables:\n    - {{table: orders, topic: {orders}, watermark: created_at}}\n\
             http:\n  listen: 127.0.0.1:0\n"
        );
        let file = test.write("shop.yml", &text).display().to_string();
        let pg = &test.postgres;
        let (host, port, db) = (&pg.host, pg.port, &pg.db);
        let lake = test.path("lake").display().to_string();
        let env = [
            ("POSTGRES_URL", format!("jdbc:postgresql://{host}:{port}/{db}")),
            ("POSTGRES_USER", pg.user.clone()),
            ("KAFKA_BOOTSTRAP_SERVERS", test.brokers.clone()),
            ("CHECKPOINT_LOCATION", format!("{lake}/checkpoints")),
            ("LAKEHOUSE_PATH", lake),
        ];
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        test.db().execute(TABLE);
        let url = format!("postgres://{}@{host}:{port}/{db}", pg.user);
        let orders = format!("generate orders --url {url} --rate 120 --bad 0.003");
        let chat = format!(
            "generate chat --brokers {} --chat-topic {chat} --viewer-topic {viewer} --rate 200 --streams 6 --past 14 \
             --bad 0.0002 --spikes 70 --drops 50 --storms 30 --plant-gap 120",
            test.brokers
        );
        let people = [orders, chat].map(|line| Run::start(&test, &line.split(' ').collect::<Vec<_>>()));
        let run = Run::with_env(&test, &["run", "-c", &file], &env);
        Scene { run, _people: people, test }
    }
}
