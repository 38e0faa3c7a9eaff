-- The routing table of an account as it is re-estimated every day from what entries cost; each estimation is kept.

CREATE TABLE IF NOT EXISTS live_routes (
    account text NOT NULL,
    estimated_at timestamptz NOT NULL,
    base jsonb NOT NULL,
    routes jsonb NOT NULL,
    found jsonb NOT NULL,
    changed boolean NOT NULL,
    PRIMARY KEY (account, estimated_at)
);
COMMENT ON TABLE live_routes IS 'Every re-estimation of the routing table of entries; the newest of an account holds while the policy has its base.';
COMMENT ON COLUMN live_routes.account IS 'As in live_accounts.';
COMMENT ON COLUMN live_routes.estimated_at IS 'When.';
COMMENT ON COLUMN live_routes.base IS 'The policy''s own table: with another one the estimation begins anew.';
COMMENT ON COLUMN live_routes.routes IS 'The table from then on, and since when each row is as it is, ms.';
COMMENT ON COLUMN live_routes.found IS 'By row: entries looked at, what they cost, and why it was changed or not.';
COMMENT ON COLUMN live_routes.changed IS 'Whether it differs from the one before.';
