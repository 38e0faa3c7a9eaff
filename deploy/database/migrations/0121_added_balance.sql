-- Money added to a strategy by add-balance, as its revisions hold it. 1R is risk_per_trade of initial_balance + added_balance (D19).

ALTER TABLE strategies ADD COLUMN IF NOT EXISTS added_balance double precision NOT NULL DEFAULT 0;
