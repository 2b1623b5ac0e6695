"""Share what every stage needs: the stage contract, params, errors, the device."""
