-- A sample source: food orders, polled by created_at.
-- `headwater generate` and `headwater demo` run this file with the table's name put in.

CREATE TABLE IF NOT EXISTS "orders" (
    order_id        serial PRIMARY KEY,
    customer_name   varchar,
    restaurant_name varchar,
    item            varchar,
    amount          numeric,
    order_status    varchar,  -- PLACED, PREPARING, DELIVERED, CANCELLED
    created_at      timestamp DEFAULT (now() AT TIME ZONE 'UTC')
);

-- Each poll asks for the newest rows by this column: without an index it would read the whole table.
CREATE INDEX IF NOT EXISTS "orders_created_at_idx" ON "orders" (created_at);
