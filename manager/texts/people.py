"""Accounts: one's own, and those of others."""

from __future__ import annotations

WORDS: dict[str, tuple[str, str]] = {
    "own_account": ("Mon compte", "My account"),
    "role": ("Rôle", "Role"),
    "role_operator": ("Opérateur", "Operator"),
    "role_fleet": ("Administrateur du parc", "Fleet administrator"),
    "role_line": ("Utilisateur d’une ligne", "User of one line"),
    "password_change": ("Changer de mot de passe", "Change the password"),
    "password_old": ("Mot de passe actuel", "Current password"),
    "password_new": ("Nouveau mot de passe", "New password"),
    "password_again": ("Encore une fois", "Once more"),
    "password_hint": (
        "Au moins {least} caractères. Vos autres sessions prendront fin.",
        "At least {least} characters. Your other sessions will end.",
    ),
    "password_wrong": (
        "Ce n’est pas votre mot de passe actuel.",
        "This is not your current password.",
    ),
    "password_length": (
        "Il faut au moins {least} caractères.",
        "Use at least {least} characters.",
    ),
    "password_differs": (
        "Les deux nouveaux mots de passe sont différents.",
        "The two new passwords differ.",
    ),
    "password_done": ("Votre mot de passe est changé.", "Your password is changed."),
    "accounts": ("Comptes", "Accounts"),
    "account_add": ("Ajouter un compte", "Add an account"),
    "account_line": ("Ligne de l’utilisateur", "The user’s line"),
    "account_hint": (
        "Un mot de passe est créé et affiché une seule fois.",
        "A password is made and shown once.",
    ),
    "account_given": ("Nouveau mot de passe de {name}", "New password for {name}"),
    "account_once": (
        "Transmettez-le : il ne sera plus affiché.",
        "Hand it over: it will not be shown again.",
    ),
    "account_reset": ("Nouveau mot de passe", "New password"),
    "account_delete": ("Supprimer", "Delete"),
    "account_sure": ("Supprimer {name} maintenant", "Delete {name} now"),
    "account_deleted": ("Le compte {name} est supprimé.", "Account {name} is deleted."),
    "account_name": (
        "De 1 à 64 caractères : a à z, chiffres, . _ @ -",
        "1 to 64 characters: a to z, digits, . _ @ -",
    ),
    "account_taken": ("Ce compte existe déjà.", "There is an account of that name."),
    "account_fleet": ("Indiquez le nom d’un parc.", "Give the name of a fleet."),
    "fleet_word": ("Parc", "Fleet"),
    "what_to_do": ("Actions", "Actions"),
    "by_operator": ("Votre opérateur", "Your operator"),
}  # fmt: skip
