"""What all pages say, the log-in, and the list of lines."""

from __future__ import annotations

WORDS: dict[str, tuple[str, str]] = {
    "language": ("Français", "English"),
    "other_language": ("English", "Français"),
    "skip": ("Aller au contenu", "Skip to the content"),
    "product": ("Renvoi", "Renvoi"),
    "tagline": ("Vos renvois d’appels", "Your call forwarding"),
    "lead": (
        "Choisissez où vont vos appels quand vous ne pouvez pas répondre.",
        "Choose where your calls go when you cannot answer.",
    ),
    "log_in": ("Se connecter", "Log in"),
    "log_out": ("Se déconnecter", "Log out"),
    "account": ("Identifiant", "Account"),
    "password": ("Mot de passe", "Password"),
    "login_wrong": ("Identifiant ou mot de passe incorrect.", "Wrong account name or password."),
    "login_many": (
        "Trop d’essais : réessayez dans {minutes} min.",
        "Too many attempts: try again in {minutes} min.",
    ),
    "login_ended": (
        "Votre session est terminée. Reconnectez-vous pour continuer.",
        "Your session has ended. Log in again to go on.",
    ),
    "login_ended_typed": (
        "Votre session est terminée : rien n’est encore enregistré. "
        "Reconnectez-vous, vous retrouverez votre saisie.",
        "Your session has ended: nothing is saved yet. "
        "Log in again and you will find what you typed.",
    ),
    "log_in_again": ("Se reconnecter", "Log in again"),
    "retry": ("Réessayer", "Try again"),
    "colon": (" : ", ": "),
    "fleet": ("Parc {fleet}", "Fleet {fleet}"),
    "operator": ("Opérateur", "Operator"),
    "trail": ("Fil d’Ariane", "You are here"),
    # lines
    "lines": ("Lignes", "Lines"),
    "choose_line": ("Choisissez la ligne", "Choose the line"),
    "search": ("Rechercher une ligne", "Search for a line"),
    "search_hint": (
        "Numéro ou nom. Raccourci : la touche « / ».",
        "Number or name. Shortcut: press “/”.",
    ),
    "search_do": ("Rechercher", "Search"),
    "found": ("{count} lignes", "{count} lines"),
    "found_one": ("1 ligne", "1 line"),
    "found_none": ("Aucune ligne ne correspond.", "No line matches."),
    "found_for": ("{count} lignes pour « {words} »", "{count} lines for “{words}”"),
    "found_one_for": ("1 ligne pour « {words} »", "1 line for “{words}”"),
    "found_none_for": ("Aucune ligne ne correspond à « {words} ».", "No line matches “{words}”."),
    "line": ("Ligne", "Line"),
    "state": ("État", "State"),
    "calls_go": ("Où vont les appels", "Where calls go"),
    "list_rings": ("La ligne sonne", "The line rings"),
    "resting": ("Au repos", "Resting"),
    "select_all": ("Choisir toutes les lignes de cette page", "Select all lines of this page"),
    "ticked": ("{count} lignes choisies", "{count} lines selected"),
    "ticked_one": ("1 ligne choisie", "1 line selected"),
    "untick": ("Tout décocher", "Clear selection"),
    "next_page": ("Lignes suivantes", "Next lines"),
    "first_page": ("Retour au début", "Back to the beginning"),
    "connected": ("Connectée", "Connected"),
    "not_connected": ("Non connectée", "Not connected"),
    "suspended": ("Suspendue", "Suspended"),
    "select": ("Choisir {number}", "Select {number}"),
    "several": ("Appliquer à plusieurs lignes", "Apply to several lines"),
    "several_hint": (
        "Cochez des lignes pour leur donner les mêmes renvois.",
        "Tick lines to give them the same forwards.",
    ),
    "several_all": ("Appliquer aux {count} lignes", "Apply to all {count} lines"),
    "several_found": ("Appliquer aux {count} lignes trouvées", "Apply to the {count} lines found"),
}  # fmt: skip
