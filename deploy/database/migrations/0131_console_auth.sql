-- What login needs besides the users: the signing secret, a second factor that waits for its first code, who used an invitation.

CREATE TABLE IF NOT EXISTS console_secret (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    secret bytea NOT NULL CHECK (length(secret) >= 32),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE console_secret IS 'The secret that signs tokens, if the environment has none. One row.';
COMMENT ON COLUMN console_secret.singleton IS 'Always true: there is one row.';
COMMENT ON COLUMN console_secret.secret IS 'The secret, 32 bytes or more.';
COMMENT ON COLUMN console_secret.created_at IS 'When it was made.';

ALTER TABLE console_users ADD COLUMN IF NOT EXISTS totp_pending text;
COMMENT ON COLUMN console_users.totp_pending IS 'Base32 secret of a second factor that waits for its first code.';

CREATE TABLE IF NOT EXISTS console_invitation_uses (
    code text NOT NULL REFERENCES console_invitations,
    user_id bigint NOT NULL UNIQUE REFERENCES console_users,
    used_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (code, user_id)
);
COMMENT ON TABLE console_invitation_uses IS 'Who registered with which invitation.';
COMMENT ON COLUMN console_invitation_uses.code IS 'The invitation.';
COMMENT ON COLUMN console_invitation_uses.user_id IS 'Who registered.';
COMMENT ON COLUMN console_invitation_uses.used_at IS 'When.';
