package vectors

func init() {
	add("derive_account.json", 6, names(Accounts, func(c AccountCase) Source { return c.Source }))
	add("derive_context.json", 4, names(Contexts, func(c ContextCase) Source { return c.Source }))
	add("derive_proof.json", 3, names(Proofs, func(c ProofCase) Source { return c.Source }))
	add("derive_attempt.json", 4, names(Attempts, func(c AttemptCase) Source { return c.Source }))
	add("derive_keywrap.json", 4, names(Keywraps, func(c KeywrapCase) Source { return c.Source }))
	add("derive_receipt.json", 3, names(Receipts, func(c ReceiptCase) Source { return c.Source }))
}
