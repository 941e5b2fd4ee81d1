"""Problems with a closed form as objects: points whose exact answers every job is measured by."""
