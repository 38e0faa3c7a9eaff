-- What no execution of the venue explains is booked at an estimated price, and says so.

ALTER TABLE fills ADD COLUMN IF NOT EXISTS price_estimated boolean NOT NULL DEFAULT false;
ALTER TABLE trades_closed ADD COLUMN IF NOT EXISTS price_estimated boolean NOT NULL DEFAULT false;
