"""Published templates with two or more users. A template with one user lives in that member's recipe."""

from __future__ import annotations

from dataclasses import replace

from camelid.dialogue.template import Template

# A base model has no template: text goes in, its continuation comes out (Touvron et al. 2023, section 3).
PLAIN = Template(user="{instruction}")

# code: llama/generation.py, chat_completion. One BOS and EOS around each pair; a request that contains a tag is refused
# there as here. When a system message is folded in, only the end of the joined text is stripped.
LLAMA_2 = Template(
    opening="",
    user="{bos}[INST] {instruction|strip} [/INST]",
    user_with_system="{bos}[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{instruction|rstrip} [/INST]",
    assistant=" {reply|strip} {eos}",
    markers=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    on_markers="refuse",
)

# code: llama3/llama/tokenizer.py, ChatFormat. The stop ids are those of its Tokenizer: end of text and end of turn.
LLAMA_3 = Template(
    opening="{<|begin_of_text|>}",
    system="{<|start_header_id|>}system{<|end_header_id|>}\n\n{system|strip}{<|eot_id|>}",
    user="{<|start_header_id|>}user{<|end_header_id|>}\n\n{instruction|strip}{<|eot_id|>}",
    cue="{<|start_header_id|>}assistant{<|end_header_id|>}\n\n",
    assistant="{reply|strip}{<|eot_id|>}",
    stops=("{<|end_of_text|>}",),
)

# code: llama-models/models/llama3/tokenizer.py and chat_format.py, which strips nothing; models/llama3_1/prompt_format.md,
# "JSON based tool calling". 3.1 adds a token for "more steps to come", which ends a call, one that begins it, and a role.
LLAMA_3_1 = replace(
    LLAMA_3,
    system="{<|start_header_id|>}system{<|end_header_id|>}\n\n{system}{<|eot_id|>}",
    user="{<|start_header_id|>}user{<|end_header_id|>}\n\n{instruction}{<|eot_id|>}",
    assistant="{reply}{<|eot_id|>}",
    stops=("{<|end_of_text|>}", "{<|eom_id|>}"),
    tools="{<|start_header_id|>}user{<|end_header_id|>}\n\nAnswer the user's question by making use of the following "
    "functions if needed.\nIf none of the function can be used, please say so.\nHere is a list of functions in JSON "
    "format:\n{tools}\n\nReturn function calls in JSON format.{<|eot_id|>}",
    call="{<|python_tag|>}{call}{<|eom_id|>}",
    result="{<|start_header_id|>}ipython{<|end_header_id|>}\n\n{result}{<|eot_id|>}",
)

# code: llama-models/models/llama3_2/text_prompt_format.md. Functions are offered in the system message (tools.offered_3_2);
# calls are lists as Python writes them, and end the turn.
LLAMA_3_2 = replace(LLAMA_3_1, tools="", call="{<|python_tag|>}{call}{<|eot_id|>}")

# code: fastchat/conversation.py, conv_vicuna_v1.1 (SeparatorStyle.ADD_COLON_TWO, " " and "</s>").
VICUNA_1_1 = Template(
    system="{system} ",
    default_system="A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    user="USER: {instruction} ",
    cue="ASSISTANT:",
    assistant=" {reply}{eos}",
    markers=("USER:", "ASSISTANT:"),
)

# code: fastchat/conversation.py, conv_one_shot and the first train.py (SeparatorStyle.SINGLE, "###"): a turn is closed by the
# mark that opens the next, which is therefore learned as the end of a reply.
VICUNA_0 = Template(
    system="{system}\n###",
    default_system="A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
    user=" Human: {instruction}\n###",
    cue=" Assistant:",
    assistant=" {reply}\n###",
    stop_texts=("###",),
    markers=("### Human:", "### Assistant:"),
)
