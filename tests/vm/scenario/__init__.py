"""What happens inside of the guest, boot by boot; standard library only, for the guest has nothing else."""
